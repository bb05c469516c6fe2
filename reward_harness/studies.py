"""Studies: a base experiment, variants of it and a list of seeds, expanded to experiment keys.

``data/studies/<name>.yaml``::

    base: hh-harmless
    description: Does a stronger KL penalty cost reward?
    grid:
      policy.ppo.kl_target: [1.5, 3.0, 6.0]
    seeds: [1, 2, 3]
    measures: [policy_report.ppo_reward_change, policy_report.ppo_kl]

``grid`` is crossed; ``variants`` are named sets of overrides, for what no single setting says.
Each member is ``<study>--<variant>--s<seed>``; a variant of the grid names the last part of each
path and the slugged value (``kl-target-1p5``). A member is an experiment like any other: the base's
file with the overrides and the seed applied. ``extends`` takes another study as the beginning.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from reward_harness.errors import SpecError
from reward_harness.manifest import Frozen
from reward_harness.spec import (
    KEY_PATTERN,
    KEY_RULE,
    ExperimentSpec,
    merge,
    read_inherited,
    validation_error,
)

Scalar = str | int | float | bool | None
Override = Any
MEASURE = re.compile(r"[a-z0-9_]+\.[A-Za-z0-9_]+(\|[A-Za-z0-9_]+)*")
"""``<stage>.<metric>``; of several metrics, a member's first one counts (``ppo_kl|grpo_kl``)."""
MEMBER_KEY = re.compile(r"^(?P<study>.+?)--(?P<variant>.+)--s(?P<seed>\d+)$")


class Curve(Frozen):
    """A measure over a numeric setting, with the power law ``floor + scale * x**-exponent``."""

    x: str = Field(description="a path of `grid`, or a metric `<stage>.<name>`")
    measure: str
    floor: float | None = Field(default=None, description="fixed; null: fitted, from 4 sizes up")


class Front(Frozen):
    """Two measures of which no variant is best in both: the Pareto front is shown."""

    first: str
    second: str


class StudySpec(Frozen):
    """One study file."""

    name: str
    base: str
    description: str = ""
    status: Literal["available", "active", "archived"] = "active"
    grid: dict[str, list[Scalar]] = Field(default_factory=dict[str, list[Scalar]])
    variants: dict[str, dict[str, Override]] = Field(default_factory=dict[str, dict[str, Override]])
    seeds: list[int] = Field(min_length=1)
    baseline: str | None = None
    measures: list[str] = Field(default_factory=list[str])
    curve: Curve | None = None
    front: Front | None = None

    @model_validator(mode="after")
    def _measures_are_stage_and_metric(self) -> StudySpec:
        for measure in self.all_measures:
            if not MEASURE.fullmatch(measure):
                raise ValueError(f"measure {measure!r} is not `<stage>.<metric>[|<metric>…]`")
        return self

    @property
    def all_measures(self) -> list[str]:
        """Every measure that the report needs, each once, in the order of the file."""
        more = [self.curve.measure] if self.curve else []
        more += [self.front.first, self.front.second] if self.front else []
        return list(dict.fromkeys([*self.measures, *more]))


@dataclass(frozen=True, slots=True)
class Member:
    """One experiment of a study: its key, its place among the variants and its seed."""

    key: str
    variant: str
    seed: int
    overrides: dict[str, Override]


def study_names(folder: Path) -> list[str]:
    """Names of all study files, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_study(folder: Path, name: str) -> StudySpec:
    """Read ``<folder>/<name>.yaml``, following ``extends``; ``SpecError`` names file, line and
    field.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(study_names(folder)) or "none"
        raise SpecError(f"no study {name!r}", where=str(path), expected=f"one of: {known}")
    content = read_inherited(folder, name)
    try:
        study = StudySpec.model_validate({**content, "name": name})
    except ValidationError as error:
        raise validation_error(path, error) from error
    names = [member.variant for member in expand(study)]
    if study.baseline is not None and study.baseline not in names:
        raise SpecError(
            "the baseline is no variant of this study",
            where=str(path),
            got=study.baseline,
            expected=f"one of: {', '.join(dict.fromkeys(names))}",
        )
    return study


def slug(value: Scalar) -> str:
    """A value as part of a key: lower case, ``.`` as ``p``, ``-`` before a digit as ``m``.

    ``.5`` → ``0p5``, ``-2`` → ``m2``, ``1e-05`` → ``1em05``, True → ``true``.
    """
    text = str(float(value)) if isinstance(value, float) else str(value)
    text = re.sub(r"-(?=\d)", "m", text.lower()).replace(".", "p")
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def expand(study: StudySpec) -> list[Member]:
    """All members, by variant, then seed; ``SpecError`` for a collision or too long a key."""
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
    for named, chosen in (study.variants or {"": {}}).items():
        for values in itertools.product(*(study.grid[path] for path in paths)):
            cell = dict(zip(paths, values, strict=True))
            parts = [f"{slug(p.rsplit('.', 1)[-1])}-{slug(v)}" for p, v in cell.items()]
            variant = "-".join([*([named] if named else []), *parts]) or "base"
            for seed in study.seeds:
                key = f"{study.name}--{variant}--s{seed}"
                yield Member(key, variant, seed, {**chosen, **cell})


def member_spec(base: ExperimentSpec, study: StudySpec, member: Member) -> ExperimentSpec:
    """The experiment of one member of a study whose base is ``base``; ``SpecError`` if an override
    does not fit it.
    """
    content = base.model_dump(mode="json")
    for path, value in member.overrides.items():
        content = merge(content, _nested(path, value))
    content |= {"key": member.key, "seed": member.seed, "description": study.description}
    try:
        return ExperimentSpec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"field {field!r}: {first['msg']}", where=member.key) from error


def _nested(path: str, value: Override) -> dict[str, Any]:
    nested: Any = value
    for part in reversed(path.split(".")):
        nested = {part: nested}
    return nested
