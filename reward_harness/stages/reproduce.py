"""Making an artifact again from what its publication recorded, beside the published one, and
comparing the two.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reward_harness.errors import ArtifactError
from reward_harness.hashing import digest_file
from reward_harness.manifest import TAKEN_FROM, Metric, Outcome, Output, outputs_digest
from reward_harness.spec import ExperimentSpec
from reward_harness.stages.make import Services, StageRun, builder_of, plan_recipe
from reward_harness.stages.table import STAGES
from reward_harness.store import Artifact, ArtifactStore
from reward_harness.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Reproduction:
    """How the artifact made again compares with the published one."""

    artifact: Artifact
    digest: str
    metrics: Mapping[str, Metric]

    @property
    def same_content(self) -> bool:
        """Whether every byte outside ``log/`` is the same."""
        return self.digest == self.artifact.digest

    def outside_interval(self) -> list[str]:
        """Metrics whose new value lies outside the published interval (or differs, where there is
        none).
        """
        return [
            name
            for name, old in self.artifact.manifest.metrics.items()
            if name not in self.metrics or not _within(self.metrics[name].value, old)
        ]


def _within(value: float, published: Metric) -> bool:
    low = published.value if published.ci_low is None else published.ci_low
    high = published.value if published.ci_high is None else published.ci_high
    return low <= value <= high


def parse_artifact_id(text: str) -> tuple[str, str, str]:
    """``experiment/stage/digest`` in its parts; the digest may be a unique prefix."""
    parts = text.strip("/").split("/")
    if len(parts) != 3:
        raise ArtifactError(
            "not an artifact's name",
            got=text,
            expected="experiment/stage/digest, as manifests and reports print it",
        )
    return parts[0], parts[1], parts[2]


def build_again(
    workspace: Workspace,
    experiment: str,
    stage_name: str,
    spec_digest: str,
    inputs: Mapping[str, str],
    folder: Path,
    services: Services,
    made_in: str | None = None,
) -> Outcome:
    """Run the stage with a recorded spec and recorded inputs; writes its files into the empty
    ``folder``. ``made_in``: the experiment that the files name, if it is another one.
    """
    stage = STAGES[stage_name]
    store = ArtifactStore(workspace.runs)
    spec = ExperimentSpec.model_validate(store.spec_snapshot(experiment, spec_digest))
    found = {name: store.load(experiment, name, digest) for name, digest in inputs.items()}
    if made_in is not None:
        spec = spec.model_copy(update={"key": made_in})
    planned = plan_recipe(workspace, spec, stage, dict(inputs))
    recipe = replace(planned, again=services.again)
    folder.mkdir(parents=True)
    run = StageRun(stage, spec, workspace, store, found, services, recipe)
    outcome = builder_of(stage)(run, folder)
    run.finish()
    return outcome


def reproduce(workspace: Workspace, artifact_id: str, services: Services) -> Reproduction:
    """Make ``artifact_id`` again from its recorded inputs; nothing published is touched."""
    experiment, stage, digest = parse_artifact_id(artifact_id)
    artifact = ArtifactStore(workspace.runs).load(experiment, stage, digest)
    publication = artifact.publication
    folder = workspace.cache / "reproduce" / f"{stage}-{artifact.digest[:16]}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        outcome = build_again(
            workspace,
            experiment,
            stage,
            publication.spec_digest,
            publication.inputs,
            folder,
            replace(services, again=publication.again),
            made_in=_maker(artifact),
        )
        made = [
            _output(folder, o.path)
            for o in artifact.manifest.outputs
            if (folder / o.path).is_file()
        ]
        gates = [o for o in artifact.manifest.outputs if o.path == "gates.json"]
        digest = outputs_digest(
            [*made, *(gates if dict(outcome.gates) == artifact.manifest.gates else [])]
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Reproduction(artifact, digest, outcome.metrics)


def _maker(artifact: Artifact) -> str | None:
    """The experiment from which the artifact was taken."""
    source = artifact.manifest.notes.get(TAKEN_FROM)
    return None if source is None else parse_artifact_id(source)[0]


def _output(folder: Path, path: str) -> Output:
    file = folder / path
    return Output(path=path, sha256=digest_file(file), bytes=file.stat().st_size)
