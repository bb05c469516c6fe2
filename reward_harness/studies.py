"""Studies: a base experiment, a grid of overrides and a list of seeds, expanded to experiment keys.

``data/studies/<name>.yaml``::

    base: hh-harmless
    description: Does a stronger KL penalty cost reward?
    grid:
      policy.ppo.kl_target: [1.5, 3.0, 6.0]
    seeds: [1, 2, 3]

Each member is ``<study>--<variant>--s<seed>``; the variant names the last part of each path and the
slugged value (``kl-target-1p5``). A member is an experiment like any other: the base's file with
the overrides and the seed applied.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from reward_harness.errors import SpecError
from reward_harness.manifest import Frozen
from reward_harness.spec import (
    KEY_PATTERN,
    KEY_RULE,
    ExperimentSpec,
    merge,
    read_experiment,
    read_yaml,
    validation_error,
)

Scalar = str | int | float | bool | None


class StudySpec(Frozen):
    """One study file."""

    name: str
    base: str
    description: str = ""
    grid: dict[str, list[Scalar]] = Field(default_factory=dict[str, list[Scalar]])
    seeds: list[int] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Member:
    """One experiment of a study: its key, its place in the grid and its seed."""

    key: str
    variant: str
    seed: int
    overrides: dict[str, Scalar]


def read_study(folder: Path, name: str) -> StudySpec:
    """Read ``<folder>/<name>.yaml``; ``SpecError`` names file, line and field."""
    path = folder / f"{name}.yaml"
    try:
        return StudySpec.model_validate({**read_yaml(path), "name": name})
    except ValidationError as error:
        raise validation_error(path, error) from error


def slug(value: Scalar) -> str:
    """A value as part of a key: lower case, ``.`` as ``p``, ``-`` before a digit as ``m``.

    ``.5`` → ``0p5``, ``-2`` → ``m2``, ``1e-05`` → ``1em05``, True → ``true``.
    """
    text = str(float(value)) if isinstance(value, float) else str(value)
    text = re.sub(r"-(?=\d)", "m", text.lower()).replace(".", "p")
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def expand(study: StudySpec) -> list[Member]:
    """All members, by grid, then seed; ``SpecError`` for a collision or too long a key."""
    members = list(_members(study))
    seen: dict[str, Member] = {}
    for member in members:
        if not KEY_PATTERN.match(member.key):
            raise SpecError(
                "member key is not usable", where=study.name, got=member.key, expected=KEY_RULE
            )
        if member.key in seen:
            raise SpecError(
                "two members have one key",
                where=study.name,
                got=f"{member.key} for {seen[member.key].overrides} and {member.overrides}",
                fix="Give values that differ after slugging, or rename a path.",
            )
        seen[member.key] = member
    return members


def _members(study: StudySpec) -> Iterator[Member]:
    paths = sorted(study.grid)
    for values in itertools.product(*(study.grid[path] for path in paths)):
        overrides = dict(zip(paths, values, strict=True))
        names = [f"{slug(p.rsplit('.', 1)[-1])}-{slug(v)}" for p, v in overrides.items()]
        variant = "-".join(names) or "base"
        for seed in study.seeds:
            yield Member(f"{study.name}--{variant}--s{seed}", variant, seed, overrides)


def member_spec(experiments: Path, study: StudySpec, member: Member) -> ExperimentSpec:
    """The experiment of one member; ``SpecError`` if an override does not fit the base."""
    content = read_experiment(experiments, study.base).model_dump(mode="json")
    for path, value in member.overrides.items():
        content = merge(content, _nested(path, value))
    content |= {"key": member.key, "seed": member.seed, "description": study.description}
    try:
        return ExperimentSpec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"field {field!r}: {first['msg']}", where=member.key) from error


def _nested(path: str, value: Scalar) -> dict[str, Any]:
    nested: Any = value
    for part in reversed(path.split(".")):
        nested = {part: nested}
    return nested
