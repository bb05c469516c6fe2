"""Where two experiments, or two artifacts, part: the first stage made differently, and how.

Stages are compared in the order of the graph. A stage whose content differs only because an input
does is a *consequence*; one that differs with equal inputs is an *origin*, told by its reasons:

    spec         fields of a section that it reads
    seed         the experiment's seed
    code         the stage's code version
    data         a dataset whose source had another content
    unrecorded   none of these: prompt templates, judge, attack texts, or a result that varies

A stage that differs in its inputs and in one of these is an origin too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from reward_harness.errors import ArtifactError
from reward_harness.lineage.provenance import Node, lineage_of
from reward_harness.spec import SUBSECTIONS
from reward_harness.stages.table import STAGES
from reward_harness.store import ArtifactStore

Kind = Literal["only in one", "spec", "seed", "code", "data", "inputs", "unrecorded"]
ORIGINS: frozenset[Kind] = frozenset({"only in one", "spec", "seed", "code", "data", "unrecorded"})
ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a stage differs: the kind, what exactly, and its value on each side."""

    kind: Kind
    what: str
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class StageDifference:
    """A stage whose artifacts differ; a digest is None where the stage was not made."""

    stage: str
    first: str | None
    second: str | None
    reasons: tuple[Reason, ...]

    @property
    def is_origin(self) -> bool:
        """Whether something other than its inputs differs."""
        return any(reason.kind in ORIGINS for reason in self.reasons)


@dataclass(frozen=True, slots=True)
class Difference:
    """All stages that differ, in the order of the graph."""

    first: str
    second: str
    stages: tuple[StageDifference, ...]
    equal: tuple[str, ...]

    @property
    def origin(self) -> StageDifference | None:
        """The first stage that was made differently."""
        return next((stage for stage in self.stages if stage.is_origin), None)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "first": self.first,
            "second": self.second,
            "equal": list(self.equal),
            "origin": self.origin.stage if self.origin else None,
            "differences": [
                {
                    "stage": stage.stage,
                    "first": stage.first,
                    "second": stage.second,
                    "origin": stage.is_origin,
                    "reasons": [
                        {"kind": r.kind, "what": r.what, "first": r.first, "second": r.second}
                        for r in stage.reasons
                    ],
                }
                for stage in self.stages
            ],
        }


def difference_of(store: ArtifactStore, first: str, second: str) -> Difference:
    """Compare two experiments (keys: what is current) or artifacts (experiment/stage[/digest])."""
    sides = _nodes(store, first), _nodes(store, second)
    names = sides[0].keys() | sides[1].keys()
    ordered = [name for name in STAGES if name in names] + sorted(names - set(STAGES))
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in ordered}
    equal = [name for name, (a, b) in pairs.items() if a and b and a.digest == b.digest]
    differing = [
        StageDifference(name, a and a.digest, b and b.digest, tuple(_reasons(store, a, b)))
        for name, (a, b) in pairs.items()
        if name not in equal
    ]
    return Difference(first, second, tuple(differing), tuple(equal))


def _nodes(store: ArtifactStore, name: str) -> dict[str, Node]:
    """The artifacts behind a name by stage; of several of one stage, the one nearest to it."""
    experiment, _, rest = name.strip("/").partition("/")
    stage, _, digest = rest.partition("/")
    lineage = lineage_of(store, experiment, stage or None, digest or None)
    found: dict[str, Node] = {}
    for node in lineage.nodes():
        if node.experiment == experiment:
            found.setdefault(node.stage, node)
    return found


def _reasons(store: ArtifactStore, first: Node | None, second: Node | None) -> Iterable[Reason]:
    if first is None or second is None:
        present = [node.digest if node else None for node in (first, second)]
        yield Reason("only in one", "stage", *present)
        return
    if first.manifest is None or second.manifest is None:
        yield Reason("unrecorded", "gone from the disk", first.digest, second.digest)
        return
    found = [*_of_recipe(store, first, second), *_of_inputs(first, second)]
    if not found and first.stage in STAGES and STAGES[first.stage].group == "datasets":
        found = [Reason("data", "content of the source", first.digest, second.digest)]
    if not found:
        recipes = "the same recipe" if first.recipe == second.recipe else "other recipes"
        found = [Reason("unrecorded", recipes, first.recipe, second.recipe)]
    yield from found


def _of_recipe(store: ArtifactStore, first: Node, second: Node) -> Iterable[Reason]:
    """Differences of code version, seed and the sections that the stage reads."""
    assert first.manifest is not None and second.manifest is not None
    versions = first.manifest.code.version, second.manifest.code.version
    if versions[0] != versions[1]:
        yield Reason("code", "code version", *versions)
    if first.spec_digest == second.spec_digest:
        return
    specs = [_spec(store, node) for node in (first, second)]
    stage = STAGES.get(first.stage)
    parts = [sections_of(spec, stage.sections if stage else tuple(spec)) for spec in specs]
    if specs[0].get("seed") != specs[1].get("seed"):
        yield Reason("seed", "seed", specs[0].get("seed"), specs[1].get("seed"))
    for field, (a, b) in fields_that_differ(parts[0], parts[1]).items():
        yield Reason("spec", field, a, b)


def _of_inputs(first: Node, second: Node) -> Iterable[Reason]:
    sides = [{node.stage: node.digest for node in side.inputs} for side in (first, second)]
    for name in sorted(sides[0].keys() | sides[1].keys()):
        a, b = sides[0].get(name), sides[1].get(name)
        if a != b:
            yield Reason("inputs", name, a, b)


def _spec(store: ArtifactStore, node: Node) -> dict[str, Any]:
    try:
        return store.spec_snapshot(node.experiment, node.spec_digest or "")
    except ArtifactError:
        return {}


def sections_of(spec: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The named sections of a spec snapshot by path; a section leaves out its subsections."""
    found: dict[str, Any] = {}
    for name in names:
        parent, _, child = name.partition("_")
        while parent not in spec and child:
            more, _, child = child.partition("_")
            parent = f"{parent}_{more}"
        section = spec.get(parent)
        if child:
            found[f"{parent}.{child}"] = (section or {}).get(child)
        elif isinstance(section, Mapping):
            left_out = SUBSECTIONS.get(parent, ())
            inside = cast("Mapping[str, Any]", section)
            found[parent] = {key: value for key, value in inside.items() if key not in left_out}
    return found


def fields_that_differ(first: Any, second: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Leaves of two JSON values that differ, by dotted path; a missing one is ``(absent)``."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        a, b = cast("Mapping[str, Any]", first), cast("Mapping[str, Any]", second)
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*a, *(key for key in b if key not in a)]:
            below = f"{path}.{key}" if path else key
            found |= fields_that_differ(a.get(key, ABSENT), b.get(key, ABSENT), below)
        return found
    return {} if first == second else {path: (first, second)}
