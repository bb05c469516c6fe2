"""The reward-model artifact: ``artifact.json``, all that scoring depends on, in one digested file.

The file's ``artifact_id`` is the digest of its content, so a changed byte is noticed wherever the
file lies. Provenance (when and from which session it was made) stays outside that digest and, in a
published folder, in ``log/provenance.json``: the same reward made again is the same artifact. A
single exported ``.json`` carries both. No secret is ever in it; of an API key only the variable's
name is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, ValidationError

from reward_harness.errors import ArtifactError
from reward_harness.hashing import digest_file, digest_json
from reward_harness.manifest import MANIFEST_NAME, Frozen, Gate, Manifest, outputs_digest
from reward_harness.model_spec import ModelSpec
from reward_harness.prompts import Template
from reward_harness.rubrics.types import Rubric
from reward_harness.search_sections import GradedParts
from reward_harness.sections import Endpoint
from reward_harness.store import GATES_NAME

ARTIFACT_NAME = "artifact.json"
PROVENANCE_NAME = "log/provenance.json"
PROBES_NAME = "probes.jsonl"
MODEL_FOLDER = "model"
SCHEMA_VERSION = "1.0"
RM_API_VERSION = "1.0"
PROVENANCE = (
    "created_at_utc",
    "source_session_id",
    "source_run_id",
    "dataset_hash",
    "config_hash",
)
OUTSIDE_IDENTITY = ("artifact_id", "gates", *PROVENANCE)
ID_PREFIX = "rm-"
ID_CHARS = 32


class Compatibility(Frozen):
    """What a reader must understand to use the artifact."""

    artifact_type: Literal["rm"] = "rm"
    min_rm_api_version: str = RM_API_VERSION
    output_schema: str = "reward_score_v1"


class ScoringPolicy(Frozen):
    """How grades or logits become the score."""

    aggregation: Literal["weighted_mean", "logit", "penalised_mean", "steps", "exact_answer"]
    higher_is_better: bool = True
    unscored: Literal["never_a_number"] = "never_a_number"


class Scaling(Frozen):
    """Held-out mean and standard deviation of the raw score; details report (score - mean) /
    std.
    """

    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    n: int = 0


class RubricRuntime(Frozen):
    """What grading depends on; ``verifier`` is the prompt template itself, as it was used."""

    kind: Literal["rubric"] = "rubric"
    backend: str
    locale: str
    endpoint: Endpoint | None
    votes: int
    seed: int
    graded: GradedParts = GradedParts()
    local_model: ModelSpec | None = None
    verifier: Template | None = None


class ClassifierRuntime(Frozen):
    """The model's files by sha256, and its own description of how it tokenises and pools."""

    kind: Literal["classifier"] = "classifier"
    files: dict[str, str]
    reward_model: dict[str, Any]


class EnsembleRuntime(Frozen):
    """Classifiers of equal weight in folders below ``model``, and the price of disagreement."""

    kind: Literal["ensemble"] = "ensemble"
    files: dict[str, str]
    members: list[str] = Field(min_length=2)
    penalty: float = Field(ge=0)


class ProcessRuntime(Frozen):
    """A step model, how a response is cut into steps, and how their scores become one."""

    kind: Literal["process"] = "process"
    files: dict[str, str]
    reward_model: dict[str, Any]
    aggregation: Literal["min", "prod", "last", "mean"]
    step_delimiter: str = Field(min_length=1)


class CompositeRuntime(Frozen):
    """A classifier and the weights of its squashed score and of the two programmatic rules."""

    kind: Literal["composite"] = "composite"
    files: dict[str, str]
    reward_model: dict[str, Any]
    weights: tuple[float, float, float]


class AnswersRuntime(Frozen):
    """The known answer, a number, of each prompt by its key."""

    kind: Literal["answers"] = "answers"
    answers: dict[str, str] = Field(min_length=1)


ModelRuntime = ClassifierRuntime | EnsembleRuntime | ProcessRuntime | CompositeRuntime
"""Those whose weights lie in ``model/``."""
Runtime = RubricRuntime | AnswersRuntime | ModelRuntime


class RMArtifact(Frozen):
    """A reward that can be loaded, deployed and served; see the rewards spec, "RM artifact"."""

    artifact_id: str
    schema_version: str = SCHEMA_VERSION
    kind: Literal["rubric", "answers", "classifier", "ensemble", "process", "composite"]
    rubric: dict[str, Rubric] = Field(default_factory=dict)
    prompt_ids: dict[str, str] = Field(
        default_factory=dict, description="prompt key -> prompt id, for prompts with own rubrics"
    )
    scoring_policy: ScoringPolicy
    normalization: Scaling = Scaling()
    compatibility: Compatibility = Compatibility()
    runtime_snapshot: Runtime = Field(discriminator="kind")
    created_at_utc: str | None = None
    source_session_id: str | None = None
    source_run_id: str | None = None
    dataset_hash: str | None = None
    config_hash: str | None = None
    gates: dict[str, Gate] | Literal["not_run"] = "not_run"

    @property
    def content(self) -> dict[str, Any]:
        """All that decides a score, as JSON."""
        return self.model_dump(mode="json", exclude=set(OUTSIDE_IDENTITY))


def content_id(content: dict[str, Any]) -> str:
    """The artifact id that belongs to this content."""
    kept = {key: value for key, value in content.items() if key not in OUTSIDE_IDENTITY}
    return f"{ID_PREFIX}{digest_json(kept)[:ID_CHARS]}"


def sealed(artifact: RMArtifact) -> RMArtifact:
    """``artifact`` with the id of its content."""
    return artifact.model_copy(update={"artifact_id": content_id(artifact.content)})


def write_artifact(artifact: RMArtifact, target: Path) -> Path:
    """Write a folder (identity and provenance apart) or, if ``target`` ends in .json, one file."""
    body = artifact.model_dump(mode="json")
    if target.suffix == ".json":
        if isinstance(artifact.runtime_snapshot, ModelRuntime):
            raise ArtifactError(
                "a model's weights do not fit into one JSON file",
                where=str(target),
                fix="Export to a folder.",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_pretty(body))
        return target
    (target / PROVENANCE_NAME).parent.mkdir(parents=True, exist_ok=True)
    (target / PROVENANCE_NAME).write_bytes(_pretty({key: body[key] for key in PROVENANCE}))
    if artifact.gates != "not_run":
        (target / GATES_NAME).write_bytes(_pretty(body["gates"]))
    identity = {k: v for k, v in body.items() if k not in (*PROVENANCE, "gates")}
    (target / ARTIFACT_NAME).write_bytes(_pretty(identity))
    return target / ARTIFACT_NAME


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def read_artifact(path: Path) -> RMArtifact:
    """Read and verify an artifact folder or file; ``ArtifactError`` says why one is refused."""
    file = path / ARTIFACT_NAME if path.is_dir() else path
    body = _json_of(file)
    if body.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            "unknown schema version",
            where=str(file),
            got=body.get("schema_version"),
            expected=SCHEMA_VERSION,
            fix="Read it with the version that wrote it, or make the artifact again.",
        )
    if not body.get("runtime_snapshot"):
        raise ArtifactError(
            "no runtime snapshot: it cannot be known how the rubric was graded",
            where=str(file),
            fix="Export the artifact again from its search output.",
        )
    provenance = path / PROVENANCE_NAME
    if path.is_dir() and provenance.is_file():
        body |= _json_of(provenance)
    artifact = _validated(body, file)
    expected = content_id(body)
    if artifact.artifact_id != expected:
        raise ArtifactError(
            "content does not match the artifact id",
            where=str(file),
            got=artifact.artifact_id,
            expected=expected,
            fix="The file was changed after it was made; make or export it again.",
        )
    return artifact


def _json_of(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError("no such reward-model artifact", where=str(path)) from error
    except ValueError as error:
        raise ArtifactError("not valid JSON", where=str(path), got=str(error)) from error
    if not isinstance(body, dict):
        raise ArtifactError("not a JSON object", where=str(path), got=type(body).__name__)
    return cast("dict[str, Any]", body)


def _validated(body: dict[str, Any], file: Path) -> RMArtifact:
    try:
        return RMArtifact.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"field {field!r}: {first['msg']}", where=str(file), got=str(first.get("input"))[:120]
        ) from error


def verified_digest(path: Path, artifact: RMArtifact) -> str:
    """The digest under which the artifact is known, after all its files were checked.

    A published folder has its manifest's digest; a loose file or folder that of its content.
    """
    if isinstance(artifact.runtime_snapshot, ModelRuntime):
        for name, expected in artifact.runtime_snapshot.files.items():
            _check(path / MODEL_FOLDER / name, expected)
    manifest_path = path / MANIFEST_NAME
    if not (path.is_dir() and manifest_path.is_file()):
        return digest_json(artifact.content)
    manifest = Manifest.model_validate_json(manifest_path.read_bytes())
    if outputs_digest(manifest.outputs) != manifest.digest:
        raise ArtifactError("manifest does not match its digest", where=str(manifest_path))
    for output in manifest.outputs:
        if not output.path.startswith(f"{MODEL_FOLDER}/"):  # those were checked above
            _check(path / output.path, output.sha256)
    return manifest.digest


def _check(path: Path, expected: str) -> None:
    fix = "Restore the file, or delete the artifact's folder and run the stage again."
    if not path.is_file():
        raise ArtifactError("file is missing", where=str(path), fix=fix)
    if (found := digest_file(path)) != expected:
        raise ArtifactError(
            "file does not match its digest",
            where=str(path),
            got=found[:16],
            expected=expected[:16],
            fix=fix,
        )


def gates_of(path: Path, artifact: RMArtifact) -> dict[str, Gate] | None:
    """The artifact's gate results, or None where they were not run."""
    if path.is_dir() and (path / MANIFEST_NAME).is_file():
        manifest = Manifest.model_validate_json((path / MANIFEST_NAME).read_bytes())
        return dict(manifest.gates) or None
    if path.is_dir() and (path / GATES_NAME).is_file():
        body = _json_of(path / GATES_NAME)
        return {name: Gate.model_validate(gate) for name, gate in body.items()}
    return None if artifact.gates == "not_run" else dict(artifact.gates)
