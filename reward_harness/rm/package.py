"""Packaging a found rubric or a trained classifier as a reward-model artifact."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from reward_harness.errors import ArtifactError
from reward_harness.hashing import digest_file
from reward_harness.llm.backends import resolve_backend, resolve_endpoint
from reward_harness.rewards.rubric import SHARED
from reward_harness.rm.artifact import (
    ClassifierRuntime,
    RMArtifact,
    RubricRuntime,
    Scaling,
    ScoringPolicy,
    sealed,
)
from reward_harness.rubrics.types import Rubric
from reward_harness.spec import ExperimentSpec

REWARD_MODEL_NAME = "reward_model.json"


def read_rubrics(path: Path) -> dict[str, Rubric]:
    """``{"__shared__" or prompt id: rubric}`` as ``best_rubric`` publishes it."""
    try:
        body = json.loads(path.read_bytes())
        found = {name: Rubric.model_validate(rubric) for name, rubric in body.items()}
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise ArtifactError(
            "not a file of rubrics", where=str(path), got=str(error).splitlines()[0]
        ) from error
    if not found:
        raise ArtifactError("no rubric in it", where=str(path))
    return found


def rubric_artifact(
    rubrics: Mapping[str, Rubric], runtime: RubricRuntime, prompt_ids: Mapping[str, str]
) -> RMArtifact:
    """A rubric artifact; prompt keys are kept only for prompts that have a rubric of their own."""
    own = {key: name for key, name in prompt_ids.items() if name in rubrics and name != SHARED}
    return sealed(
        RMArtifact(
            artifact_id="",
            kind="rubric",
            rubric=dict(rubrics),
            prompt_ids=own,
            scoring_policy=ScoringPolicy(aggregation="weighted_mean"),
            runtime_snapshot=runtime,
        )
    )


def rubric_runtime(spec: ExperimentSpec) -> RubricRuntime:
    """What grading with this experiment's search settings depends on."""
    search = spec.search
    backend = resolve_backend(search)
    return RubricRuntime(
        backend=backend,
        locale=search.locale,
        endpoint=resolve_endpoint(search.endpoint) if backend == "openai" else None,
        votes=search.votes,
        seed=spec.seed,
    )


def describe_classifier(model: Path, scaling: Scaling) -> RMArtifact:
    """The artifact for weights that lie in ``model`` already."""
    files = sorted(path for path in model.rglob("*") if path.is_file())
    described = model / REWARD_MODEL_NAME
    if described not in files:
        raise ArtifactError(f"no {REWARD_MODEL_NAME}", where=str(model))
    runtime = ClassifierRuntime(
        files={path.relative_to(model).as_posix(): digest_file(path) for path in files},
        reward_model=json.loads(described.read_bytes()),
    )
    return sealed(
        RMArtifact(
            artifact_id="",
            kind="classifier",
            scoring_policy=ScoringPolicy(aggregation="logit"),
            normalization=scaling,
            runtime_snapshot=runtime,
        )
    )


def link_tree(source: Path, target: Path) -> None:
    """Hard links where the file system can (weights are large and never change), else copies."""
    for path in sorted(source.rglob("*")):
        if not path.is_file():
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copy)
        except OSError:
            shutil.copyfile(path, copy)
