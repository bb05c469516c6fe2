"""``load_rm``: a reward from a published reward-model artifact, verified before it gives a single
score.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reward_harness.errors import ArtifactError
from reward_harness.rewards.answers import AnswerRM
from reward_harness.rewards.base import BaseRM
from reward_harness.rewards.classifier import ClassifierRM, Normalization
from reward_harness.rewards.ensemble import EnsembleRM
from reward_harness.rewards.mixtures import CompositeRM
from reward_harness.rewards.process import ProcessRM
from reward_harness.rewards.rubric import RubricRM
from reward_harness.rewards.step_model import StepModel
from reward_harness.rm.artifact import (
    MODEL_FOLDER,
    AnswersRuntime,
    CompositeRuntime,
    EnsembleRuntime,
    ModelRuntime,
    ProcessRuntime,
    RMArtifact,
    RubricRuntime,
    read_artifact,
    verified_digest,
)
from reward_harness.workspace import Workspace

if TYPE_CHECKING:
    from reward_harness.llm.roles import ModelRoles


def load_rm(
    path: Path,
    device: str = "cpu",
    *,
    cache: Path | None = None,
    api_key_env: str | None = None,
) -> BaseRM:
    """Read an ``rm_artifact`` folder or an exported ``.json``.

    Args:
        path: the artifact.
        device: where a classifier computes.
        cache: folder of the verdict store, so that a model-graded rubric asks nothing twice;
            the project's own unless another is given.
        api_key_env: variable with the judge's key, where not the one that the artifact names.

    ``ArtifactError`` with the reason for an unknown schema version, a missing runtime snapshot, or
    a file that does not match its digest; ``LLMError`` without the judge's key.
    """
    artifact = read_artifact(path)
    digest = verified_digest(path, artifact)
    runtime = artifact.runtime_snapshot
    if isinstance(runtime, RubricRuntime):
        rm: BaseRM = RubricRM(
            artifact.rubric,
            _grader(artifact, runtime, cache, api_key_env),
            artifact.prompt_ids,
            graded=runtime.graded,
        )
    elif isinstance(runtime, AnswersRuntime):
        rm = AnswerRM(runtime.answers)
    else:
        rm = _model(artifact, runtime, path / MODEL_FOLDER, device)
    rm.artifact_id, rm.digest = artifact.artifact_id, digest
    return rm


def _model(
    artifact: RMArtifact,
    runtime: ModelRuntime,
    folder: Path,
    device: str,
) -> BaseRM:
    """The reward whose weights lie in ``folder``."""
    if isinstance(runtime, EnsembleRuntime):
        members = [(ClassifierRM.load(folder / name, device), 1.0) for name in runtime.members]
        return EnsembleRM(members, runtime.penalty)
    if isinstance(runtime, ProcessRuntime):
        steps = StepModel.load(folder, device)
        return ProcessRM(steps, runtime.aggregation, runtime.step_delimiter)
    if isinstance(runtime, CompositeRuntime):
        return CompositeRM(ClassifierRM.load(folder, device), weights=runtime.weights)
    scaling = artifact.normalization
    return ClassifierRM.load(folder, device, Normalization(scaling.mean, scaling.std))


def _grader(
    artifact: RMArtifact, runtime: RubricRuntime, cache: Path | None, api_key_env: str | None
) -> ModelRoles | None:
    """The grader of the runtime snapshot, whatever the environment would choose now."""
    if not any(rubric.needs_llm for rubric in artifact.rubric.values()):
        return None
    cache = cache or Workspace.discover().cache
    if runtime.local_model is not None and runtime.verifier is not None:
        from reward_harness.llm.local import open_local_roles
        from reward_harness.llm.verdicts import STORE_NAME

        return open_local_roles(
            runtime.local_model, {"verifier": runtime.verifier}, cache / STORE_NAME, cache
        )
    if runtime.endpoint is None or runtime.verifier is None:
        raise ArtifactError(
            "model-graded criteria, but the runtime snapshot names no endpoint and template",
            where=artifact.artifact_id,
            got=runtime.backend,
        )
    from reward_harness.llm.gateway import Gateway
    from reward_harness.llm.roles import ModelRoles
    from reward_harness.llm.verdicts import STORE_NAME, VerdictStore

    named = {"api_key_env": api_key_env} if api_key_env else {}
    gateway = Gateway(runtime.endpoint.model_copy(update=named))
    store = VerdictStore(cache / STORE_NAME)
    return ModelRoles(gateway, store, {"verifier": runtime.verifier})
