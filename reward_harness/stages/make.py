"""Making one stage's artifact for one experiment: resolve inputs, build or reuse, publish.

``make`` is what a Dagster asset body, ``harness stage`` and ``harness reproduce`` all call.
``stage_status`` answers, without building anything, whether a stage is fresh: the recipe it would
use now against the one it was made from.
"""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_harness.environment import code_of, environment_of, peak_memory_bytes
from reward_harness.errors import ArtifactError
from reward_harness.hashing import digest_json, digest_tree
from reward_harness.manifest import Outcome
from reward_harness.progress import ProgressSink, quiet
from reward_harness.spec import ExperimentSpec
from reward_harness.stages.table import STAGES, Stage
from reward_harness.store import Artifact, ArtifactStore, Recipe
from reward_harness.workspace import Workspace

if TYPE_CHECKING:
    from reward_harness.training.launcher import Launcher

Builder = Callable[["StageRun", Path], Outcome]


@dataclass(frozen=True, slots=True)
class Services:
    """What a stage is handed besides its inputs; the defaults serve a plain command line.

    ``launcher`` None means: the kind named by the experiment's compute section. ``again`` names a
    deliberate repetition of what is published already, which is otherwise reused.
    """

    launcher: Launcher | None = None
    progress: ProgressSink = quiet
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    search_budget: Mapping[str, float] = field(default_factory=dict[str, float])
    device: str | None = None
    again: str = ""


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage of one experiment with everything its builder may read.

    What a builder appends to ``after_publish`` runs once its artifact is published: the place to
    delete what a killed run would have needed.
    """

    stage: Stage
    experiment: ExperimentSpec
    workspace: Workspace
    store: ArtifactStore
    inputs: Mapping[str, Artifact]
    services: Services
    recipe: Recipe
    after_publish: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def finish(self) -> None:
        """Do what waits for the artifact to be safe."""
        for function in self.after_publish:
            function()

    def input(self, name: str) -> Artifact:
        """The input artifact made by stage ``name``; ``ArtifactError`` if this run has none."""
        if name not in self.inputs:
            raise missing_input(self.experiment.key, self.stage.name, name)
        return self.inputs[name]


class StageStatus(StrEnum):
    """Whether a stage's current artifact is what would be made now."""

    FRESH = "fresh"
    STALE = "stale"
    MISSING = "missing"


def missing_input(experiment: str, stage: str, needed: str) -> ArtifactError:
    """The error for an input stage that has no published artifact."""
    return ArtifactError(
        f"needs {needed}, which has not been made for this experiment",
        where=f"{experiment}/{stage}",
        fix=f"Run `harness experiment run {experiment} --stages {needed}` first.",
    )


def plan_recipe(
    workspace: Workspace, spec: ExperimentSpec, stage: Stage, inputs: Mapping[str, str]
) -> Recipe:
    """The recipe of ``stage`` for the spec and prompt templates as they are now."""
    extra: dict[str, Any] = {}
    if stage.templates:
        extra["templates"] = digest_tree(workspace.prompts)
    if "search" in stage.sections:
        extra["backend"] = _resolved_backend(spec)
    if stage.from_source:
        extra["source"] = _source_fingerprint(workspace, spec, stage)
    if stage.name == "rm_report" and spec.evaluation.graded:
        extra["graded"] = _graded_fingerprints(workspace, spec)
    if stage.name == "rm_artifact":
        extra["attacks"] = digest_tree(workspace.attacks)
    return Recipe(
        experiment=spec.key,
        stage=stage.name,
        code_version=stage.code_version,
        sections=spec.section_digests(stage.sections),
        inputs=dict(inputs),
        extra=extra,
    )


def _source_fingerprint(workspace: Workspace, spec: ExperimentSpec, stage: Stage) -> str:
    from reward_harness.data.sources import fingerprint

    section = spec.section(stage.sections[-1])
    if not section:
        return ""
    mixed = [fingerprint(workspace, part["source"]) for part in section["mix"]]
    own = fingerprint(workspace, section["source"])
    return digest_json([own, *mixed]) if mixed else own


def _graded_fingerprints(workspace: Workspace, spec: ExperimentSpec) -> dict[str, str]:
    from reward_harness.data.sources import fingerprint

    return {name: fingerprint(workspace, name) for name in spec.evaluation.graded}


def _resolved_backend(spec: ExperimentSpec) -> str:
    from reward_harness.llm.backends import backend_identity

    return backend_identity(spec.search)


def make(
    workspace: Workspace,
    spec: ExperimentSpec,
    stage_name: str,
    services: Services | None = None,
    *,
    inputs: Mapping[str, Artifact] | None = None,
) -> tuple[Artifact, bool]:
    """Make one stage, or reuse what an equal recipe published; returns (artifact, reused).

    A shared stage also reuses what another experiment published. ``inputs`` default to the current
    artifact of each input stage. ``ArtifactError`` if one is missing.
    """
    stage = STAGES[stage_name]
    services = services or Services()
    store = ArtifactStore(workspace.runs)
    found = dict(inputs) if inputs is not None else current_inputs(store, spec, stage)
    recipe = plan_recipe(workspace, spec, stage, {name: a.digest for name, a in found.items()})
    if services.again and store.find_any(recipe, shared=stage.shared):
        recipe = replace(recipe, again=services.again)
    run = StageRun(stage, spec, workspace, store, found, services, recipe)
    produced = store.produce(
        recipe,
        lambda folder: _timed(builder_of(stage), run, folder),
        snapshot=spec.model_dump(mode="json"),
        environment=environment_of,
        code=code_of(workspace.root, stage.code_version),
        run_id=services.run_id,
        shared=stage.shared,
    )
    run.finish()
    if stage.settle is not None:
        _function(stage.settle)(run, produced[0])
    return produced


def current_inputs(store: ArtifactStore, spec: ExperimentSpec, stage: Stage) -> dict[str, Artifact]:
    """The current artifact of each stage that ``stage`` reads; ``ArtifactError`` if missing."""
    found: dict[str, Artifact] = {}
    for name in stage.inputs_of(spec):
        artifact = store.current(spec.key, name)
        if artifact is None:
            raise missing_input(spec.key, stage.name, name)
        found[name] = artifact
    return found


def builder_of(stage: Stage) -> Builder:
    """The function that writes the stage's files; imported here, because it may import torch."""
    return _function(stage.builder)


def _function(named: str) -> Any:
    module, _, function = named.partition(":")
    return getattr(importlib.import_module(module), function)


def _timed(builder: Builder, run: StageRun, folder: Path) -> Outcome:
    """Run the builder and add wall time and peak memory to what it reports."""
    start = time.monotonic()
    outcome = builder(run, folder)
    peak = max(outcome.cost.peak_memory_bytes, peak_memory_bytes())
    seconds = time.monotonic() - start
    cost = outcome.cost.model_copy(update={"seconds": seconds, "peak_memory_bytes": peak})
    return replace(outcome, cost=cost)


def stage_status(
    workspace: Workspace, spec: ExperimentSpec, stages: list[Stage]
) -> dict[str, StageStatus]:
    """Status of each of ``stages`` (inputs first): stale also where an input is not fresh."""
    store = ArtifactStore(workspace.runs)
    status: dict[str, StageStatus] = {}
    for stage in stages:
        current = store.current(spec.key, stage.name)
        if current is None:
            status[stage.name] = StageStatus.MISSING
            continue
        names = stage.inputs_of(spec)
        upstream = {name: store.current(spec.key, name) for name in names}
        inputs = {name: artifact.digest for name, artifact in upstream.items() if artifact}
        recipe = plan_recipe(workspace, spec, stage, inputs)
        settled = all(status.get(name, StageStatus.FRESH) is StageStatus.FRESH for name in names)
        fresh = settled and current.publication.recipe == recipe.digest
        status[stage.name] = StageStatus.FRESH if fresh else StageStatus.STALE
    return status
