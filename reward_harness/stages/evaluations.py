"""The stages that measure rewards and policies and write their reports.

Both write ``report.html`` (self-contained), ``report.json`` (the measurements), ``summary.md`` and
``plot.png``; seconds go to ``log/``. Equal inputs make equal files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reward_harness.data.files import read_records, write_lines
from reward_harness.data.records import PreferencePair, RankedPrompt, RLPrompt, prompt_key
from reward_harness.data.sources import resolve
from reward_harness.errors import DataError, GateRejected
from reward_harness.evaluation.metrics import policy_metrics, reward_metrics
from reward_harness.evaluation.policies import PolicyComparison, PolicyOutput, compare_policies
from reward_harness.evaluation.policy_advice import explain
from reward_harness.evaluation.policy_page import change_plot, policy_page, policy_summary
from reward_harness.evaluation.report import rounded
from reward_harness.evaluation.results import (
    REPORT_NAME,
    PolicyResults,
    RewardResults,
    Sampling,
    ScorerName,
    Trace,
    write_results,
)
from reward_harness.evaluation.reward_models import (
    HeldOut,
    Resampling,
    agreement,
    length_baselines,
    measure_scorer,
)
from reward_harness.evaluation.reward_page import accuracy_plot, reward_page, reward_summary
from reward_harness.evaluation.scorers import brevity_scorer, second_opinions, served_scorer
from reward_harness.evaluation.scoring import Scorer
from reward_harness.evaluation.traces import read_trace
from reward_harness.hashing import canonical_json, unit_interval
from reward_harness.manifest import Outcome
from reward_harness.progress import Progress
from reward_harness.stages.make import StageRun
from reward_harness.stages.report_files import sources_of, write_report
from reward_harness.store import Artifact

REFERENCE = "sft"
METHODS = ("sft", "dpo", "grpo", "ppo", "iterative_dpo")
CHECKPOINTS = {name: f"{name}_checkpoint" for name in METHODS}


def rm_report(run: StageRun, folder: Path) -> Outcome:
    """Measure the served reward, and the other trained one beside it, on held-out preferences."""
    how, device = _resampling(run), _device(run)
    artifact = run.input("rm_artifact")
    served = served_scorer(artifact, device)
    others = _second_opinions(run, served, device)
    data = _held_out(run)
    measured = [
        measure_scorer(_told(run, number, len(others) + 1, scorer), data, how)
        for number, scorer in enumerate([served, *others])
    ]
    found = [agreement(measured[0], other, how) for other in measured[1:]]
    classifier = run.inputs.get("bt_reward_model")
    results = RewardResults(
        experiment=run.experiment.key,
        served=served.name,
        rewards=[m.measures for m in measured],
        baselines=length_baselines(data.test, how) if data.test else None,
        agreements=[a for a in found if a is not None],
        gates=artifact.manifest.gates,
        classifier_training=_trace(classifier, "bt") if classifier else None,
        bootstrap_samples=how.samples,
        confidence=how.confidence,
        seed=how.seed,
    )
    write_results(folder / REPORT_NAME, results)
    page = reward_page(results, sources_of(run.inputs.values()))
    write_report(folder, page, reward_summary(results), *accuracy_plot(results))
    return Outcome(metrics=reward_metrics(results), device=device)


def policy_report(run: StageRun, folder: Path) -> Outcome:
    """Sample every checkpoint on held-out prompts; compare with SFT under two scorers."""
    from reward_harness.evaluation.rollouts import Checkpoint, RolloutPlan, roll_out

    how, device = _resampling(run), _device(run)
    sampling = _sampling(run)
    plan = RolloutPlan(_test_prompts(run), sampling, device, run.experiment.seed)
    policies, gated_out = _usable_policies(run)
    checkpoints = [Checkpoint(name, a.folder("model"), a.digest) for name, a in policies.items()]
    count = iter(range(len(checkpoints)))
    outputs, seconds = roll_out(
        checkpoints,
        REFERENCE,
        plan,
        lambda message: _tell(run, next(count), len(checkpoints) + 1, message),
    )
    _tell(run, len(checkpoints), len(checkpoints) + 1, "scoring")
    scorers = _policy_scorers(run, device)
    comparison = compare_policies(outputs, scorers, REFERENCE, how)
    traces = {name: _trace(artifact, name) for name, artifact in policies.items()}
    results = _policy_results(run, scorers, comparison, traces, sampling, how, gated_out)
    write_results(folder / REPORT_NAME, results)
    _write_samples(folder / "samples.jsonl", outputs, comparison)
    _write_seconds(folder, seconds)
    sources = sources_of([*run.inputs.values(), _served_artifact(run)])
    page = policy_page(results, outputs, comparison, sources, how.rng("samples shown"))
    write_report(folder, page, policy_summary(results), *change_plot(results))
    return Outcome(metrics=policy_metrics(results), device=device)


def _usable_policies(run: StageRun) -> tuple[dict[str, Artifact], dict[str, str]]:
    """The checkpoints that may be used, and why the others may not, by policy."""
    usable: dict[str, Artifact] = {}
    gated_out: dict[str, str] = {}
    for name, stage in CHECKPOINTS.items():
        if stage not in run.inputs:
            continue
        try:
            run.inputs[stage].manifest.require_gates()
        except GateRejected as error:
            gated_out[name] = run.inputs[stage].manifest.gates[error.gate].detail
        else:
            usable[name] = run.inputs[stage]
    return usable, gated_out


def _resampling(run: StageRun) -> Resampling:
    section = run.experiment.evaluation
    return Resampling(run.experiment.seed, section.bootstrap_samples, section.confidence)


def _device(run: StageRun) -> str:
    return run.services.device or "cpu"


def _held_out(run: StageRun) -> HeldOut:
    pairs, ranked = run.inputs.get("preference_pairs"), run.inputs.get("ranked_prompts")
    return HeldOut(
        test=read_records(pairs.file("test.jsonl"), PreferencePair) if pairs else (),
        validation=read_records(pairs.file("validation.jsonl"), PreferencePair) if pairs else (),
        ranked=read_records(ranked.file("test.jsonl"), RankedPrompt) if ranked else (),
        graded={
            name: resolve(run.workspace, name, RankedPrompt).records
            for name in run.experiment.evaluation.graded
        },
    )


def _test_prompts(run: StageRun) -> list[RLPrompt]:
    """The held-out prompts that every policy answers: the first N in an order fixed by the seed."""
    source = run.input("rl_prompts")
    prompts = read_records(source.file("test.jsonl"), RLPrompt)
    if not prompts:
        raise DataError(
            "no held-out prompts",
            where=source.manifest.artifact_id,
            expected="at least one record in test.jsonl",
            fix="Raise dataset.split.test or the source's limit.",
        )
    seed = run.experiment.seed
    ordered = sorted(prompts, key=lambda p: unit_interval(seed, "evaluated", prompt_key(p.prompt)))
    return ordered[: run.experiment.evaluation.prompts]


def _sampling(run: StageRun) -> Sampling:
    section = run.experiment.evaluation
    return Sampling(
        temperature=section.temperature,
        max_new_tokens=section.max_new_tokens,
        samples_per_prompt=section.samples_per_prompt,
        dtype=run.experiment.compute.generation_dtype,
    )


def _served_artifact(run: StageRun) -> Artifact:
    """The reward artifact that the deployment names, from the store."""
    named = json.loads(run.input("rm_deployment").file("deployment.json").read_bytes())
    return run.store.load(
        named["artifact_experiment"], named["artifact_stage"], named["artifact_digest"]
    )


def _second_opinions(run: StageRun, served: Scorer, device: str) -> list[Scorer]:
    classifier, rubric = run.inputs.get("bt_reward_model"), run.inputs.get("best_rubric")
    return second_opinions(served, classifier, rubric, device)


def _policy_scorers(run: StageRun, device: str) -> list[Scorer]:
    """The served reward first, then one that no policy was trained on."""
    served = served_scorer(_served_artifact(run), device)
    others = _second_opinions(run, served, device)
    return [served, *(others or [brevity_scorer()])]


def _policy_results(
    run: StageRun,
    scorers: list[Scorer],
    comparison: PolicyComparison,
    traces: dict[str, Trace],
    sampling: Sampling,
    how: Resampling,
    gated_out: dict[str, str],
) -> PolicyResults:
    by_name = {measures.name: measures for measures in comparison.measures}
    return PolicyResults(
        experiment=run.experiment.key,
        reference=REFERENCE,
        scorers=[ScorerName(name=s.name, label=s.label, digest=s.digest) for s in scorers],
        policies=comparison.measures,
        training=traces,
        explanations={
            name: explain(measures, scorers[0].name, traces.get(name), by_name[REFERENCE])
            for name, measures in by_name.items()
            if name != REFERENCE
        },
        gated_out=gated_out,
        sampling=sampling,
        bootstrap_samples=how.samples,
        confidence=how.confidence,
        seed=how.seed,
    )


def _trace(artifact: Artifact, method: str) -> Trace:
    return read_trace(artifact.file("metrics.jsonl"), method)


def _told(run: StageRun, step: int, total: int, scorer: Scorer) -> Scorer:
    _tell(run, step, total, f"scoring with {scorer.label}")
    return scorer


def _tell(run: StageRun, step: int, total: int, message: str) -> None:
    run.services.progress(Progress(run.stage.name, step, total, message))


def _write_samples(path: Path, outputs: list[PolicyOutput], comparison: PolicyComparison) -> None:
    """Every response with its scores, one a line."""
    rows = (
        {
            "policy": output.name,
            "prompt_id": sample.prompt_id,
            "text": sample.text,
            "tokens": sample.tokens,
            "ended": sample.ended,
            "log_ratio": rounded(sample.log_ratio),
            "scores": rounded(_scores_at(comparison.scores[output.name], index)),
        }
        for output in outputs
        for index, sample in enumerate(output.samples)
    )
    write_lines(path, (canonical_json(row) + b"\n" for row in rows))


def _scores_at(scores: Mapping[str, np.ndarray], index: int) -> dict[str, float]:
    return {name: float(values[index]) for name, values in scores.items()}


def _write_seconds(folder: Path, seconds: dict[str, float]) -> None:
    (folder / "log").mkdir()
    (folder / "log" / "seconds.json").write_bytes(canonical_json(rounded(seconds, 4)))
