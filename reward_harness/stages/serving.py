"""The stages that package, gate and deploy the reward an experiment serves."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from reward_harness.data.derive import ranked_from_steps
from reward_harness.data.files import read_records
from reward_harness.data.records import (
    PreferencePair,
    RankedPrompt,
    RLPrompt,
    StepwiseExample,
    prompt_key,
)
from reward_harness.errors import DataError
from reward_harness.hashing import derive_seed
from reward_harness.manifest import Cost, Metric, Outcome
from reward_harness.rewards.base import BaseRM, Scored, conversation_of
from reward_harness.rewards.classifier import ClassifierRM
from reward_harness.rewards.load import load_rm
from reward_harness.rewards.rubric import RubricRM
from reward_harness.rewards.step_model import STEP_LINES
from reward_harness.rm.answers import answers_artifact
from reward_harness.rm.artifact import (
    MODEL_FOLDER,
    PROBES_NAME,
    RMArtifact,
    Scaling,
    read_artifact,
    write_artifact,
)
from reward_harness.rm.attacks import read_attacks
from reward_harness.rm.deployments import DeploymentConflict, Deployments, checked_target
from reward_harness.rm.gate_summary import plot_scores, summary_markdown
from reward_harness.rm.gates import agreement_of, as_ranked, run_gates, sample, score_genuine
from reward_harness.rm.package import (
    describe_classifier,
    describe_composite,
    describe_ensemble,
    describe_process,
    link_tree,
    rubric_artifact,
    rubric_runtime,
)
from reward_harness.rm.probes import (
    DEPLOYMENT_NAME,
    Deployment,
    ProbeScore,
    choose_probes,
    read_deployment,
    read_probes,
    score_probes,
    write_probes,
)
from reward_harness.rubrics.files import SHARED, read_rubrics
from reward_harness.stages.costs import added, cost_of_roles
from reward_harness.stages.gating import incumbent_scores, judge_swaps
from reward_harness.stages.make import StageRun
from reward_harness.stages.table import SERVED_FROM, held_out_stage
from reward_harness.store import Artifact

SCALING_PAIRS = 128
DEPLOY_TURNS = 8
SPLITS = ("train", "validation", "test")
GATE_REPORT_NAME = "gate_report.json"

logger = logging.getLogger("reward_harness")


def rm_artifact(run: StageRun, folder: Path) -> Outcome:
    """Package the reward named by ``reward_model.serve``, run its gates, choose the probe items."""
    section = run.experiment.reward_model
    packaged = _packaged(run, folder)
    write_artifact(_with_provenance(run, packaged), folder)
    rm = load_rm(folder, _device(run), cache=run.workspace.cache)
    heldout = _heldout(run, packaged)
    measured_on = sample(heldout, section.gates.heldout_prompts)
    genuine = score_genuine(rm, measured_on)
    attacks = read_attacks(run.workspace.attacks)
    swaps, judge_cost = judge_swaps(run, packaged, measured_on)
    report = run_gates(
        rm,
        genuine,
        attacks,
        section.gates,
        run.experiment.seed,
        incumbent=incumbent_scores(run, measured_on),
        swaps=swaps,
    )
    _write_json(folder / GATE_REPORT_NAME, report)
    write_probes(folder / PROBES_NAME, choose_probes(heldout))
    title = f"Reward of {run.experiment.key}: {section.serve}"
    (folder / "summary.md").write_text(summary_markdown(title, report), encoding="utf-8")
    plot_scores(genuine, folder / "plot.png")
    transfer = _transfer(run, rm)
    return Outcome(
        metrics={**report.metrics, **transfer},
        gates=report.gates,
        cost=added(_cost(rm), judge_cost),
        notes={"kind": section.serve, "rm_artifact_id": packaged.artifact_id},
        device=_device(run),
    )


def rm_deployment(run: StageRun, folder: Path) -> Outcome:
    """Refuse what its gates bar, and score the probes; ``put_in_force`` switches the pointer."""
    artifact = run.input("rm_artifact")
    target = run.experiment.reward_model.deploy_target
    artifact.manifest.require_gates(strict=target == "prod")
    rm = load_rm(artifact.path, _device(run), cache=run.workspace.cache)
    probes = score_probes(rm, read_probes(artifact.file(PROBES_NAME)))
    deployment = Deployment(
        target=target,
        artifact_id=read_artifact(artifact.path).artifact_id,
        artifact_digest=artifact.digest,
        artifact_experiment=artifact.manifest.experiment,
        artifact_stage=artifact.manifest.stage,
        probes=probes,
    )
    _write_json(folder / DEPLOYMENT_NAME, deployment)
    (folder / "summary.md").write_text(_deployment_summary(deployment), encoding="utf-8")
    return Outcome(metrics=_probe_metrics(probes), device=_device(run))


def put_in_force(run: StageRun, artifact: Artifact) -> None:
    """Switch the target's pointer to what this stage deploys, whether it was made now or reused.

    A run states what the target should serve, so it also takes back a pointer that another
    experiment moved, and waits for its turn among deployers. What was rolled back stays back until
    somebody deploys it by name or another artifact comes: a schedule must not undo a decision.
    """
    deployment = read_deployment(artifact.file(DEPLOYMENT_NAME))
    deployments = Deployments(run.workspace, checked_target(deployment.target))
    if (rollback := deployments.withdrawn(deployment.artifact_digest)) is not None:
        logger.warning(
            "%s was rolled back by %s at %s and is not put in force again;"
            " `harness deploy --artifact %s --target %s` does it",
            deployment.artifact_id,
            rollback.by,
            rollback.at,
            run.input("rm_artifact").manifest.artifact_id,
            deployment.target,
        )
        return
    for _ in range(DEPLOY_TURNS - 1):
        with suppress(DeploymentConflict):
            deployments.deploy(run.input("rm_artifact").path)
            return
    deployments.deploy(run.input("rm_artifact").path)


def _cost(rm: BaseRM) -> Cost:
    """What a model-graded rubric asked; closes its connections."""
    from reward_harness.llm.roles import ModelRoles

    rm.close()
    if not (isinstance(rm, RubricRM) and isinstance(rm.grader, ModelRoles)):
        return Cost()
    return cost_of_roles(rm.grader)


def _device(run: StageRun) -> str:
    return run.services.device or "cpu"


def _packaged(run: StageRun, folder: Path) -> RMArtifact:
    serve = run.experiment.reward_model.serve
    if serve == "rubric":
        return _packaged_rubric(run)
    if serve == "answers":
        prompts = run.input(SERVED_FROM[serve])
        files = [prompts.file(f"{split}.jsonl") for split in SPLITS]
        return answers_artifact([p for file in files for p in read_records(file, RLPrompt)])
    return _packaged_model(run, folder)


def _packaged_rubric(run: StageRun) -> RMArtifact:
    rubrics = read_rubrics(run.input("best_rubric").file("rubric.json"))
    spec = run.experiment
    runtime = rubric_runtime(spec.search, spec.seed, run.workspace.prompts)
    prompt_ids: dict[str, str] = {}
    if set(rubrics) != {SHARED}:
        prompts = [prompt for split in SPLITS for prompt in _ranked(run, split)]
        prompt_ids = {prompt_key(prompt.prompt): prompt.prompt_id for prompt in prompts}
    return rubric_artifact(rubrics, runtime, prompt_ids)


def _packaged_model(run: StageRun, folder: Path) -> RMArtifact:
    """Weights linked to ``model/`` and described with the settings they were trained under."""
    kind = run.experiment.reward_model.serve
    source = run.input(SERVED_FROM[kind])
    model = folder / MODEL_FOLDER
    link_tree(source.folder(MODEL_FOLDER), model)
    if kind == "ensemble":
        return describe_ensemble(model, _trained_with(source, "penalty"))
    if kind == "composite":
        weights = run.experiment.reward_model.composite
        return describe_composite(model, (weights.learned, weights.programmatic, weights.concise))
    if kind == "process":
        return describe_process(model, _trained_with(source, "aggregation"), STEP_LINES)
    return describe_classifier(model, _scaling(run, model))


def _trained_with(source: Artifact, setting: str) -> Any:
    """A setting of the job that made the weights."""
    return json.loads(source.file("job.json").read_bytes())["settings"][setting]


def _scaling(run: StageRun, model: Path) -> Scaling:
    """Mean and spread of the raw score on validation responses."""
    stage = held_out_stage(run.experiment.reward_model.serve)
    pairs = _pairs(run, "validation", stage)[:SCALING_PAIRS]
    sides = [
        conversation_of([m.model_dump() for m in pair.prompt], text)
        for pair in pairs
        for text in (pair.chosen, pair.rejected)
    ]
    results = ClassifierRM.load(model, _device(run)).score_batch_results(sides)
    values = [result.value for result in results if isinstance(result, Scored)]
    if len(values) < 2 or (std := float(np.std(values))) == 0.0:
        return Scaling(n=len(values))
    return Scaling(mean=float(np.mean(values)), std=std, n=len(values))


def _with_provenance(run: StageRun, artifact: RMArtifact) -> RMArtifact:
    kind = run.experiment.reward_model.serve
    source = run.input(SERVED_FROM[kind])
    return artifact.model_copy(
        update={
            "created_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "source_session_id": source.manifest.artifact_id,
            "source_run_id": source.publication.run_id,
            "dataset_hash": run.input(held_out_stage(kind)).digest,
            "config_hash": source.manifest.spec_digest,
        }
    )


def _heldout(run: StageRun, artifact: RMArtifact) -> list[RankedPrompt]:
    """The test split; for rubrics of single prompts, every prompt that has one."""
    stage = held_out_stage(run.experiment.reward_model.serve)
    if artifact.kind == "process":
        found = ranked_from_steps(
            read_records(run.input(stage).file("test.jsonl"), StepwiseExample)
        )
    elif artifact.kind != "rubric":
        found = as_ranked(_pairs(run, "test", stage))
    elif SHARED in artifact.rubric:
        found = _ranked(run, "test")
    else:
        prompts = [prompt for split in SPLITS for prompt in _ranked(run, split)]
        found = [prompt for prompt in prompts if prompt.prompt_id in artifact.rubric]
    if not found:
        raise DataError(
            "no held-out prompts to gate the reward on",
            where=f"{run.experiment.key}/{stage}/test.jsonl",
            fix="Raise dataset.split.test, or take more prompts.",
        )
    return found


def _transfer(run: StageRun, rm: BaseRM) -> dict[str, Metric]:
    """Agreement on the other kind of preference data, where the experiment has it; not gated."""
    limit = run.experiment.reward_model.gates.heldout_prompts
    rng = np.random.default_rng(derive_seed(run.experiment.seed, "transfer"))
    if run.experiment.reward_model.serve == "rubric" and "preference_pairs" in run.inputs:
        name, prompts = "preference_pairs_agreement", as_ranked(_pairs(run, "test"))
    elif run.experiment.reward_model.serve != "rubric" and "ranked_prompts" in run.inputs:
        name, prompts = "ranked_prompts_agreement", _ranked(run, "test")
    else:
        return {}
    agreement = agreement_of(score_genuine(rm, sample(prompts, limit)), rng)
    return {} if agreement is None else {name: agreement.metric("max")}


def _ranked(run: StageRun, split: str) -> list[RankedPrompt]:
    return read_records(run.input("ranked_prompts").file(f"{split}.jsonl"), RankedPrompt)


def _pairs(run: StageRun, split: str, stage: str = "preference_pairs") -> list[PreferencePair]:
    return read_records(run.input(stage).file(f"{split}.jsonl"), PreferencePair)


def _probe_metrics(probes: list[ProbeScore]) -> dict[str, Metric]:
    scored = [probe.score for probe in probes if probe.score is not None]
    found = {"probes_unscored": Metric(value=len(probes) - len(scored), n=len(probes))}
    if scored:
        found["probe_score_mean"] = Metric(value=float(np.mean(scored)), n=len(scored))
    return found


def _deployment_summary(deployment: Deployment) -> str:
    rows = [
        f"| {probe.probe_id} | {probe.reason if probe.score is None else f'{probe.score:.6f}'} |"
        for probe in deployment.probes
    ]
    head = [
        f"# Deployed to {deployment.target}",
        "",
        f"- artifact: `{deployment.artifact_id}`",
        f"- digest: `{deployment.artifact_digest}`",
        f"- serve it: `python -m reward_harness.rm.server --target {deployment.target}`",
        "",
        "A server proves itself by these scores, to 1e-6.",
        "",
        "| probe | score |",
        "|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def _write_json(path: Path, model: BaseModel) -> None:
    text = json.dumps(model.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
