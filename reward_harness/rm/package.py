"""Packaging a found rubric or a trained classifier as a reward-model artifact."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reward_harness.errors import ArtifactError
from reward_harness.hashing import digest_file
from reward_harness.llm.backends import resolve_backend, resolve_endpoint, resolve_local_model
from reward_harness.prompts import load_templates
from reward_harness.rm.artifact import (
    ClassifierRuntime,
    CompositeRuntime,
    EnsembleRuntime,
    ModelRuntime,
    ProcessRuntime,
    RMArtifact,
    RubricRuntime,
    Scaling,
    ScoringPolicy,
    sealed,
)
from reward_harness.rubrics.files import SHARED
from reward_harness.rubrics.types import Rubric
from reward_harness.search_sections import GradedParts
from reward_harness.sections import SearchConfig

REWARD_MODEL_NAME = "reward_model.json"


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


def rubric_runtime(search: SearchConfig, seed: int, prompts: Path | None) -> RubricRuntime:
    """What grading with these search settings depends on; ``prompts`` is the templates' folder."""
    backend = resolve_backend(search)
    with_model = backend != "heuristic"
    return RubricRuntime(
        backend=backend,
        locale=search.locale,
        endpoint=resolve_endpoint(search.endpoint) if backend == "openai" else None,
        votes=search.votes,
        seed=seed,
        graded=GradedParts(prompt=search.extract, response=search.candidate_extract),
        local_model=resolve_local_model(search) if backend == "local" else None,
        verifier=load_templates(prompts, search.locale)["verifier"] if with_model else None,
    )


def describe_classifier(model: Path, scaling: Scaling) -> RMArtifact:
    """The artifact for weights that lie in ``model`` already."""
    files, described = _described(model)
    runtime = ClassifierRuntime(files=files, reward_model=described)
    return _of_models(runtime, ScoringPolicy(aggregation="logit"), scaling)


def describe_ensemble(model: Path, penalty: float) -> RMArtifact:
    """The artifact for classifiers that lie in folders of ``model``; mean - penalty * std."""
    members = sorted(path.parent.name for path in model.glob(f"*/{REWARD_MODEL_NAME}"))
    runtime = EnsembleRuntime(files=_digests(model), members=members, penalty=penalty)
    return _of_models(runtime, ScoringPolicy(aggregation="penalised_mean"))


def describe_composite(model: Path, weights: tuple[float, float, float]) -> RMArtifact:
    """The artifact for a classifier that lies in ``model`` with the two rules beside it; weights
    of (classifier, programmatic, concise).
    """
    files, described = _described(model)
    runtime = CompositeRuntime(files=files, reward_model=described, weights=weights)
    return _of_models(runtime, ScoringPolicy(aggregation="weighted_mean"))


def describe_process(model: Path, aggregation: Any, step_delimiter: str) -> RMArtifact:
    """The artifact for a step model that lies in ``model``."""
    files, described = _described(model)
    runtime = ProcessRuntime(
        files=files,
        reward_model=described,
        aggregation=aggregation,
        step_delimiter=step_delimiter,
    )
    return _of_models(runtime, ScoringPolicy(aggregation="steps"))


def _of_models(
    runtime: ModelRuntime, policy: ScoringPolicy, scaling: Scaling | None = None
) -> RMArtifact:
    return sealed(
        RMArtifact(
            artifact_id="",
            kind=runtime.kind,
            scoring_policy=policy,
            normalization=scaling or Scaling(),
            runtime_snapshot=runtime,
        )
    )


def _digests(model: Path) -> dict[str, str]:
    files = sorted(path for path in model.rglob("*") if path.is_file())
    return {path.relative_to(model).as_posix(): digest_file(path) for path in files}


def _described(model: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Digests of the files, and the model's own description."""
    if not (model / REWARD_MODEL_NAME).is_file():
        raise ArtifactError(f"no {REWARD_MODEL_NAME}", where=str(model))
    return _digests(model), json.loads((model / REWARD_MODEL_NAME).read_bytes())


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
