"""Stages that look at a reward before training on it: its signal, and a composite's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reward_harness.data.files import read_records
from reward_harness.data.records import RankedPrompt, prompt_key
from reward_harness.errors import ArtifactError
from reward_harness.evaluation.resampling import Resampling
from reward_harness.evaluation.results import REPORT_NAME, write_results
from reward_harness.evaluation.scorers import classifier_scorer, rubric_scorer, served_scorer
from reward_harness.evaluation.scoring import Scorer, Scores, conversation, score_candidates
from reward_harness.evaluation.signal_design import (
    GradedItems,
    Part,
    design_signal,
    signal_metrics,
)
from reward_harness.evaluation.signal_page import signal_page, signal_plot, signal_summary
from reward_harness.evaluation.weights import weigh, weights_metrics
from reward_harness.evaluation.weights_page import weights_page, weights_plot, weights_summary
from reward_harness.hashing import unit_interval
from reward_harness.manifest import Outcome
from reward_harness.rewards.base import Scored
from reward_harness.rewards.programmatic import ProgrammaticRM
from reward_harness.rubrics.files import read_rubrics
from reward_harness.rubrics.types import Rubric
from reward_harness.stages.make import StageRun
from reward_harness.stages.report_files import sources_of, write_report


def signal_report(run: StageRun, folder: Path) -> Outcome:
    """Five steps over the searched rubric's criteria: name, grade, validate, weight, ablate."""
    how = _resampling(run)
    scorer = _rubric(run)
    judged = any(r.needs_llm for r in _rubrics(run).values())
    results = design_signal(
        _graded(run, scorer),
        how,
        experiment=run.experiment.key,
        domain="text",
        proxy="the served judge" if judged else "programmatic checks",
    )
    write_results(folder / REPORT_NAME, results)
    page = signal_page(results, sources_of(run.inputs.values()))
    write_report(folder, page, signal_summary(results), *signal_plot(results))
    return Outcome(metrics=signal_metrics(results))


def weights_report(run: StageRun, folder: Path) -> Outcome:
    """Held-out responses re-scored under several weights of a composite; best of n with each."""
    how, device = _resampling(run), run.services.device or "cpu"
    learned = classifier_scorer(run.input("bt_reward_model"), device)
    prompts = read_records(run.input("ranked_prompts").file("test.jsonl"), RankedPrompt)
    results = weigh(
        prompts,
        _parts(prompts, learned),
        how,
        experiment=run.experiment.key,
        learned=learned.label,
    )
    write_results(folder / REPORT_NAME, results)
    page = weights_page(results, sources_of(run.inputs.values()))
    write_report(folder, page, weights_summary(results), *weights_plot(results))
    return Outcome(metrics=weights_metrics(results), device=device)


def _resampling(run: StageRun) -> Resampling:
    section = run.experiment.evaluation
    return Resampling(run.experiment.seed, section.bootstrap_samples, section.confidence)


def _parts(prompts: Sequence[RankedPrompt], learned: Scorer) -> list[Scores]:
    """For each prompt (n, 3): σ of the learned score, and both rules."""
    from scipy.special import expit

    columns = [
        score_candidates(rm, prompts)
        for rm in (learned.rm, ProgrammaticRM("binary"), ProgrammaticRM("continuous"))
    ]
    return [
        np.stack([expit(raw), rule, concise], axis=1)
        for raw, rule, concise in zip(*columns, strict=True)
    ]


def _rubrics(run: StageRun) -> dict[str, Rubric]:
    return read_rubrics(run.input("best_rubric").file("rubric.json"))


def _rubric(run: StageRun) -> Scorer:
    """The searched rubric where it needs no judge, else as it is served."""
    if (found := rubric_scorer(run.input("best_rubric"))) is not None:
        return found
    if (served := run.inputs.get("rm_artifact")) is not None:
        return served_scorer(served, run.services.device or "cpu")
    raise ArtifactError(
        "the rubric has model-graded criteria, and it is not what this experiment serves",
        where=run.input("best_rubric").manifest.artifact_id,
        fix="Set reward_model.serve: rubric, so that its judge is packaged with it.",
    )


def _graded(run: StageRun, scorer: Scorer) -> GradedItems:
    """Every ranked candidate's grades, criterion by criterion; a lower-is-better one is negated."""
    source = run.input("ranked_prompts")
    prompts = [
        (split, prompt)
        for split in ("train", "validation", "test")
        for prompt in read_records(source.file(f"{split}.jsonl"), RankedPrompt)
    ]
    asked = [(s, p, c) for s, p in prompts for c in p.candidates]
    found = scorer.rm.score_batch_results([conversation(p.prompt, c.text) for _, p, c in asked])
    halves = _halves([p for split, p in prompts if split == "test"], run.experiment.seed)
    criteria = {c.criterion_id: c for r in _rubrics(run).values() for c in r.criteria}
    grades = np.array(
        [
            [
                _grade(r.details.get("criteria", {}).get(name)) if isinstance(r, Scored) else np.nan
                for name in criteria
            ]
            for r in found
        ]
    ) * np.array([c.polarity for c in criteria.values()])
    return GradedItems(
        names=list(criteria),
        descriptions=[c.text for c in criteria.values()],
        grades=grades,
        truth=np.array([-c.rank if c.rank is not None else (c.quality or 0.0) for *_, c in asked]),
        groups=[prompt_key(p.prompt) for _, p, _ in asked],
        parts=[halves.get(prompt_key(p.prompt), "fit") for _, p, _ in asked],
    )


def _grade(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _halves(test: Sequence[RankedPrompt], seed: int) -> dict[str, Part]:
    """Which test prompts validate criteria and which measure the signal, in a seeded order."""
    keys = {prompt_key(p.prompt) for p in test}
    ordered = sorted(keys, key=lambda key: unit_interval(seed, "signal", key))
    cut = len(ordered) // 2
    return {key: "validate" if number < cut else "measure" for number, key in enumerate(ordered)}
