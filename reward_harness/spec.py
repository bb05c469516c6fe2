"""One experiment = one YAML file = one partition key: reading, inheritance, digests of its
sections.

An asset's version depends only on the sections it reads, so the unit of change here is the
*section digest* (``section_digests``): editing ``policy.ppo`` leaves everything but PPO and what
follows fresh. ``description`` and ``status`` belong to no section; the seed belongs to all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import Field, ValidationError, model_validator

from reward_harness.errors import SpecError
from reward_harness.hashing import digest_json
from reward_harness.manifest import Frozen
from reward_harness.sections import (
    BTSection,
    ComputeSection,
    DatasetSection,
    EvaluationSection,
    PolicySection,
    RewardModelSection,
    SearchConfig,
)

KEY_PATTERN = re.compile(r"^[a-z0-9][a-z0-9-]{1,47}$")
KEY_RULE = "2 to 48 of a-z, 0-9 and '-', not starting with '-'"
ALL_EXPERIMENTS = "all"
"""Stands in the place of a key where an artifact is made of every experiment."""

SUBSECTIONS = {
    "dataset": (
        "preferences",
        "ranked",
        "sft",
        "rl_prompts",
        "reasoning",
        "ai_preferences",
        "synthetic_sft",
        "rl_samples",
        "scores",
        "distilled",
    ),
    "reward_model": ("bt", "rubric", "ensemble", "process", "distilled"),
    "policy": ("sft", "dpo", "grpo", "ppo", "iterative_dpo"),
}
"""Subsections with a digest of their own; a section's own digest leaves them out."""

SECTIONS = (
    "dataset",
    *(f"dataset_{name}" for name in SUBSECTIONS["dataset"]),
    "search",
    "reward_model",
    *(f"reward_model_{name}" for name in SUBSECTIONS["reward_model"]),
    "policy",
    *(f"policy_{name}" for name in SUBSECTIONS["policy"]),
    "evaluation",
    "compute",
)


WATCHING = {"compute": ("report_to",)}
"""Fields that change where one looks and nothing that is made: sections leave them out."""


class ExperimentSpec(Frozen):
    """Everything that decides what an experiment computes."""

    key: str = Field(pattern=KEY_PATTERN.pattern)
    description: str = ""
    status: Literal["active", "archived"] = "active"
    seed: int = Field(default=7, ge=0, lt=2**31)
    dataset: DatasetSection
    search: SearchConfig = SearchConfig()
    reward_model: RewardModelSection = RewardModelSection()
    policy: PolicySection
    evaluation: EvaluationSection = EvaluationSection()
    compute: ComputeSection = ComputeSection()

    @model_validator(mode="after")
    def _rewards_that_start_from_sft_can(self) -> ExperimentSpec:
        own = self.policy.model.weights()
        for name in ("bt", "ensemble", "distilled"):
            settings: BTSection | None = getattr(self.reward_model, name)
            if settings is None or settings.init == "base":
                continue
            where = f"reward_model.{name}.init is sft_checkpoint, but"
            if self.policy.sft is None:
                raise ValueError(f"{where} there is no policy.sft: add it, or set init to base")
            if (backbone := settings.backbone.weights()) != own:
                raise ValueError(
                    f"{where} the backbone is not the model that SFT trains ({backbone}, not "
                    f"policy.model, {own}): name the same model in both, or set init to base"
                )
        return self

    def section(self, name: str) -> dict[str, Any] | None:
        """The content of one of ``SECTIONS`` as plain JSON, or None where it is switched off."""
        return _section(self.model_dump(mode="json"), name)

    def section_digests(self, names: Iterable[str] = SECTIONS) -> dict[str, str]:
        """Digest of each named section together with the seed."""
        dump = self.model_dump(mode="json")
        return {
            name: digest_json({"seed": self.seed, "section": _section(dump, name)})
            for name in names
        }


def _section(dump: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    for parent, children in SUBSECTIONS.items():
        if name == parent:
            return {k: v for k, v in dump[parent].items() if k not in children}
        if name.startswith(f"{parent}_"):
            return dump[parent][name.removeprefix(f"{parent}_")]
    return {k: v for k, v in dump[name].items() if k not in WATCHING.get(name, ())}


def check_key(key: str, where: str) -> None:
    """``SpecError`` unless ``key`` can be a partition key."""
    if not KEY_PATTERN.match(key):
        raise SpecError("not a usable experiment key", where=where, got=key, expected=KEY_RULE)
    if key == ALL_EXPERIMENTS:
        raise SpecError(
            "an experiment key with a meaning of its own",
            where=where,
            got=key,
            fix="Name the experiment otherwise: the leaderboard lies under this key.",
        )


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """``override`` on top of ``base``, key by key; lists and scalars replace."""
    merged = dict(base)
    for key, value in override.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(cast("Mapping[str, Any]", below), cast("Mapping[str, Any]", value))
        else:
            merged[key] = value
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; ``SpecError`` with file and line otherwise."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError("no such file", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise SpecError(
            "not valid YAML", where=f"{path}{line}", got=str(error).splitlines()[0]
        ) from error
    if not isinstance(loaded, dict):
        raise SpecError(
            "not a mapping", where=str(path), got=type(loaded).__name__, expected="key: value lines"
        )
    return cast("dict[str, Any]", loaded)


def line_of(path: Path, location: tuple[int | str, ...]) -> int | None:
    """The line (from 1) on which the deepest known part of ``location`` stands in the YAML file."""
    node = yaml.compose(path.read_text(encoding="utf-8"))
    line: int | None = None
    for part in location:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def validation_error(path: Path, error: ValidationError) -> SpecError:
    """The first problem pydantic found, told with file, line and field."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    line = line_of(path, first["loc"])
    where = f"{path}:{line}" if line else str(path)
    if first["type"] == "extra_forbidden":
        return SpecError(
            f"unknown field {field!r}",
            where=where,
            fix="Remove it or correct its name; see docs/experiments.md.",
        )
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    problem = first["msg"].removeprefix("Value error, ") + more
    if not field:  # a rule about several sections, which names them
        return SpecError(problem, where=where)
    return SpecError(f"field {field!r}: {problem}", where=where, got=first.get("input"))


def read_experiment(folder: Path, key: str) -> ExperimentSpec:
    """Read ``<folder>/<key>.yaml``, following ``extends``; ``SpecError`` names file, line and
    field.
    """
    check_key(key, str(folder))
    path = folder / f"{key}.yaml"
    if not path.is_file():
        known = ", ".join(experiment_keys(folder)) or "none"
        raise SpecError(f"no experiment {key!r}", where=str(path), expected=f"one of: {known}")
    content = read_inherited(folder, key)
    try:
        return ExperimentSpec.model_validate({**content, "key": key})
    except ValidationError as error:
        raise validation_error(path, error) from error


def read_inherited(folder: Path, key: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The content of ``<folder>/<key>.yaml`` on top of what it extends; ``status`` and
    ``description`` are not inherited. ``SpecError`` for a circle.
    """
    if key in seen:
        raise SpecError(
            "files extend each other in a circle",
            where=str(folder),
            got=" -> ".join([*seen, key]),
        )
    content = read_yaml(folder / f"{key}.yaml")
    content.pop("key", None)
    base = content.pop("extends", None)
    if base is None:
        return content
    check_key(str(base), f"{folder / key}.yaml: extends")
    inherited = read_inherited(folder, str(base), (*seen, key))
    return merge(
        {k: v for k, v in inherited.items() if k not in {"status", "description"}}, content
    )


def experiment_keys(folder: Path) -> list[str]:
    """Keys of all experiment files, sorted; ill-named files are included, so that reading reports
    them.
    """
    return sorted(p.stem for p in folder.glob("*.yaml"))
