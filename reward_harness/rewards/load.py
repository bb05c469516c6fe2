"""``load_rm``: a reward from a published reward-model artifact, verified before it gives a single
score.
"""

from __future__ import annotations

from pathlib import Path

from reward_harness.errors import ArtifactError
from reward_harness.rewards.base import BaseRM
from reward_harness.rewards.classifier import ClassifierRM, Normalization
from reward_harness.rewards.rubric import RubricRM
from reward_harness.rm.artifact import (
    MODEL_FOLDER,
    RMArtifact,
    RubricRuntime,
    read_artifact,
    verified_digest,
)
from reward_harness.rubrics.grading import Grader


def load_rm(path: Path, device: str = "cpu", *, api_key_env: str | None = None) -> BaseRM:
    """Read an ``rm_artifact`` folder or an exported ``.json``.

    ``ArtifactError`` with the reason for an unknown schema version, a missing runtime snapshot, or
    a file that does not match its digest.
    """
    artifact = read_artifact(path)
    digest = verified_digest(path, artifact)
    rm = rm_of(artifact, path, device, api_key_env)
    rm.artifact_id, rm.digest = artifact.artifact_id, digest
    return rm


def rm_of(
    artifact: RMArtifact, path: Path, device: str = "cpu", api_key_env: str | None = None
) -> BaseRM:
    """The reward that a verified artifact describes; ``path`` is where a classifier's weights
    lie.
    """
    if isinstance(artifact.runtime_snapshot, RubricRuntime):
        grader = _grader(artifact, artifact.runtime_snapshot, api_key_env)
        return RubricRM(artifact.rubric, grader, artifact.prompt_ids)
    scaling = artifact.normalization
    normalization = Normalization(scaling.mean, scaling.std)
    return ClassifierRM.load(path / MODEL_FOLDER, device, normalization)


def _grader(artifact: RMArtifact, runtime: RubricRuntime, api_key_env: str | None) -> Grader | None:
    if not any(rubric.needs_llm for rubric in artifact.rubric.values()):
        return None
    raise ArtifactError("model-graded criteria need a grader", got=runtime.backend)
