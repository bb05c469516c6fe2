"""Process against outcome reward models, and a reward model on pairs that length gives away."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.learning_jobs import SEEDS, rng, shown, trained
from benchmarks.recording import mirrored
from reward_harness.data.records import PreferencePair
from reward_harness.data.sources import resolve
from reward_harness.evaluation.resampling import Resampling
from reward_harness.evaluation.reward_models import HeldOut, length_baselines, measure_scorer
from reward_harness.evaluation.scoring import Scorer
from reward_harness.hashing import unit_interval
from reward_harness.manifest import Metric
from reward_harness.models.folders import model_digest
from reward_harness.models.reward_head import RewardModel
from reward_harness.models.step_head import EncodedSteps, encode_steps, step_probabilities
from reward_harness.rewards.cached import CachedRM
from reward_harness.rewards.classifier import ClassifierRM
from reward_harness.spec import read_experiment
from reward_harness.stages.make import make
from reward_harness.training.process_model import (
    TWIN_FOLDER,
    Places,
    flagged_share,
    flagged_shares,
    resampled_solutions,
)
from reward_harness.workspace import Workspace

MISTAKES = "reasoning/big_bench_mistake.jsonl.gz"
FALSE_FLAGS = 0.1
MOST = 60
"""Traces of a task and kind that are scored; a trace of 25 steps is 25 inputs to an encoder."""
Keep = Callable[[str, dict[str, Any]], None]
Scores = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole solution that reaches the right answer, and whether a step of it is wrong."""

    task: str
    question: str
    steps: tuple[str, ...]
    right: bool


def measure_steps(workspace: Workspace, keep: Keep) -> None:
    """Share of right-answer-wrong-step traces flagged where 10 % of the wholly right ones are."""
    spec = read_experiment(workspace.experiments, "process-rewards")
    make(workspace, spec, "reasoning_steps")
    traces = right_answers(mirrored(MISTAKES, "the traces"))
    counts = {
        task: [sum(t.right == kind for t in traces if t.task == task) for kind in (True, False)]
        for task in sorted({t.task for t in traces})
    }
    keep("traces (right steps, a wrong step)", counts)
    tasks = ("all", *(task for task, (good, bad) in counts.items() if min(good, bad) >= 10))
    seen: list[tuple[Scores, Scores]] = []
    for seed, model, seconds in trained(workspace, spec, "process_reward_model", SEEDS):
        seen.append(_flag_scores(model, traces))
        row: dict[str, Any] = {"train_seconds": seconds}
        for task in tasks:
            which, right, prompts = _those_of(task, traces)
            scores = [values[which] for values in seen[-1]]
            found = flagged_shares(scores, right, prompts, FALSE_FLAGS, rng(seed))
            row[task] = {name: _metric(metric) for name, metric in found.items()}
        keep(f"seed {seed}", row)
    keep("over seeds", {task: _over_seeds(task, traces, seen) for task in tasks})


def _those_of(task: str, traces: Sequence[Trace]) -> tuple[Flags, Flags, list[str]]:
    """Which traces a task has, which of those are right throughout, and their questions."""
    which = np.array([task in ("all", trace.task) for trace in traces])
    right = np.array([trace.right for trace in traces])[which]
    return which, right, [t.question for t, used in zip(traces, which, strict=True) if used]


def _over_seeds(
    task: str, traces: Sequence[Trace], seen: Sequence[tuple[Scores, Scores]]
) -> dict[str, list[float]]:
    """Means over the seeds; seeds and questions are resampled, thresholds set anew in each."""
    which, right, prompts = _those_of(task, traces)
    places = np.flatnonzero(right), np.flatnonzero(~right)
    draw = rng(0)

    def shares(good: Places, wrong: Places) -> Scores:
        """(seeds, 2): flagged by the weakest step, and by the whole."""
        return np.array(
            [
                [flagged_share(values[which], good, wrong, FALSE_FLAGS) for values in pair]
                for pair in seen
            ]
        )

    point = shares(*places).mean(axis=0)
    table = np.array(
        [
            shares(*some)[draw.integers(len(seen), size=len(seen))].mean(axis=0)
            for some in resampled_solutions(*places, prompts, draw)
        ]
    )
    columns = {
        "flagged": (point[0], table[:, 0]),
        "outcome_flagged": (point[1], table[:, 1]),
        "flagged_lead": (point[0] - point[1], table[:, 0] - table[:, 1]),
    }
    return {
        name: [round(float(x), 3) for x in (value, *np.quantile(draws, [0.025, 0.975]))]
        for name, (value, draws) in columns.items()
    }


def right_answers(path: Path) -> list[Trace]:
    """At most ``MOST`` traces of each task and kind whose answer is the target's."""
    groups: dict[tuple[str, bool], list[tuple[float, Trace]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for number, line in enumerate(stream):
            row = json.loads(line)
            if _plain(row["answer"]) != _plain(row["target"]):
                continue
            right = row["mistake_index"] is None
            trace = Trace(row["task"], row["input"], tuple(row["steps"]), right)
            place = unit_interval("trace", number)
            groups.setdefault((trace.task, right), []).append((place, trace))
    chosen = [sorted(found, key=lambda one: one[0])[:MOST] for found in groups.values()]
    return [trace for found in chosen for _, trace in found]


def _plain(answer: Any) -> str:
    return str(answer).strip().lower()


def _flag_scores(model: Path, traces: Sequence[Trace]) -> tuple[Scores, Scores]:
    """The weakest step's score of each trace, and the outcome twin's score of the whole."""
    process, outcome = RewardModel.load(model), RewardModel.load(model.parent / TWIN_FOLDER)
    inputs = [encode_steps(process, _asked(t), t.steps) for t in traces]
    flat = step_probabilities(process, [row for found in inputs for row in found])
    ends = np.cumsum([len(found) for found in inputs])
    weakest = [min(flat[end - len(f) : end]) for end, f in zip(ends, inputs, strict=True)]
    wholes: list[EncodedSteps] = [
        row for t in traces for row in encode_steps(outcome, _asked(t), ["\n".join(t.steps)])
    ]
    return np.array(weakest), np.array(step_probabilities(outcome, wholes))


def _asked(trace: Trace) -> list[dict[str, str]]:
    return [{"role": "user", "content": trace.question}]


def _metric(metric: Metric) -> list[float]:
    low, high = metric.ci_low or 0.0, metric.ci_high or 0.0
    return [round(x, 3) for x in (metric.value, low, high)]


def measure_length(workspace: Workspace, keep: Keep) -> None:
    """Accuracy, length-controlled accuracy and the length rules on AlpacaEval's pairs."""
    spec = read_experiment(workspace.experiments, "hh-harmless")
    make(workspace, spec, "preference_pairs")
    how = Resampling(spec.seed, 2000, 0.95)
    pairs = resolve(workspace, "alpaca-eval-test", PreferencePair).records
    rules = length_baselines(pairs, how)
    keep("rules", {"pairs": len(pairs), "longer_wins": shown(rules.longer_wins)})
    for seed, model, seconds in trained(workspace, spec, "bt_reward_model", SEEDS):
        found = on_alpaca(model, pairs, how, workspace.cache / "learning")
        keep(f"seed {seed}", found | {"train_seconds": seconds})


def on_alpaca(
    model: Path, pairs: Sequence[PreferencePair], how: Resampling, cache: Path
) -> dict[str, Any]:
    """A classifier's accuracies on the pairs; each response is scored once."""
    reward = ClassifierRM.load(model)
    scorer = Scorer("classifier", "Bradley-Terry", CachedRM(reward, cache, model_digest(model)), "")
    found = measure_scorer(scorer, HeldOut(pairs, (), ()), how).measures.pairs
    assert found is not None
    return {
        "accuracy": shown(found.accuracy),
        "over_longer": shown(found.over_longer),
        "length_controlled": found.length_controlled and shown(found.length_controlled),
        "length_bias": found.length_bias and shown(found.length_bias),
    }
