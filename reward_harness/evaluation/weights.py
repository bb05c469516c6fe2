"""What the weights of a composite reward pick, before any training.

The same responses are scored once by each part (``rewards.mixtures.CompositeRM``: σ of a learned
reward, a programmatic rule, a conciseness rule) and combined under several weights; with each, the
best of a prompt's responses is chosen. A weight that chooses verbose responses here trains verbose
policies later.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reward_harness.data.records import RankedPrompt
from reward_harness.evaluation.resampling import Resampling
from reward_harness.evaluation.scoring import Scores, word_count
from reward_harness.evaluation.statistics import Interval, bootstrap_mean, wilson
from reward_harness.evaluation.texts import is_verbose
from reward_harness.manifest import Frozen, Metric

Weights = tuple[float, float, float]

GRID: tuple[Weights, ...] = (
    (1.0, 0.0, 0.0),
    (0.8, 0.1, 0.1),
    (0.6, 0.2, 0.2),
    (0.4, 0.3, 0.3),
    (0.2, 0.4, 0.4),
    (0.0, 0.5, 0.5),
)
"""(learned, programmatic, concise); the first is what the others are compared with."""


class WeightsRow(Frozen):
    """One setting: its scores of all responses, and what its choices are like.

    ``best_share`` is how often it chose a response that people ranked first; changes are paired,
    prompt by prompt, with the learned reward alone.
    """

    weights: Weights
    score_mean: Interval
    score_std: float
    verbose_rate: Interval
    verbose_change: Interval | None
    chosen_words: Interval
    words_change: Interval | None
    best_share: Interval


class WeightsResults(Frozen):
    """``report.json``; ``all_*`` are over all responses: what a blind choice gives."""

    version: str = "1"
    experiment: str
    learned: str
    n_prompts: int
    n_responses: int
    unscored_share: float
    all_verbose: Interval
    all_words: Interval
    all_best: Interval
    rows: list[WeightsRow]


def weigh(
    prompts: Sequence[RankedPrompt],
    parts: Sequence[Scores],
    how: Resampling,
    *,
    experiment: str,
    learned: str,
    grid: Sequence[Weights] = GRID,
) -> WeightsResults:
    """``parts``: for each prompt (n, 3), the parts' values of its candidates, NaN where missing.

    Prompts with a response that some part did not score are left out.
    """
    whole = [(p, v) for p, v in zip(prompts, parts, strict=True) if not np.isnan(v).any()]
    choices = [
        [int(np.argmax(values @ np.array(weights))) for _, values in whole] for weights in grid
    ]
    facts = [_facts(prompt) for prompt, _ in whole]
    blind = np.array([found.mean(axis=0) for found in facts])
    picked = [np.array([f[c] for f, c in zip(facts, chosen, strict=True)]) for chosen in choices]
    return WeightsResults(
        experiment=experiment,
        learned=learned,
        n_prompts=len(whole),
        n_responses=sum(len(found) for found in facts),
        unscored_share=1 - len(whole) / len(prompts),
        all_verbose=_mean(blind[:, 0], how, "all verbose"),
        all_words=_mean(blind[:, 1], how, "all words"),
        all_best=_mean(blind[:, 2], how, "all best"),
        rows=[
            _row(weights, [v for _, v in whole], picked[number], picked[0], number, how)
            for number, weights in enumerate(grid)
        ],
    )


def weights_metrics(results: WeightsResults) -> dict[str, Metric]:
    """Verbose rate and share of best choices of each setting."""
    found: dict[str, Metric] = {}
    for row in results.rows:
        name = "_".join(f"{round(100 * w)}" for w in row.weights)
        found[f"verbose_{name}"] = row.verbose_rate.metric("min")
        found[f"best_{name}"] = row.best_share.metric("max")
    return found


def _row(
    weights: Weights,
    values: Sequence[Scores],
    picked: Scores,
    first: Scores,
    number: int,
    how: Resampling,
) -> WeightsRow:
    scores = [each @ np.array(weights) for each in values]
    verbose, words, best = picked.T
    name = str(number)
    return WeightsRow(
        weights=weights,
        score_mean=_mean(np.array([s.mean() for s in scores]), how, f"score {name}"),
        score_std=float(np.concatenate(scores).std()),
        verbose_rate=wilson(int(verbose.sum()), len(verbose), how.confidence),
        verbose_change=_mean(verbose - first[:, 0], how, f"verbose {name}") if number else None,
        chosen_words=_mean(words, how, f"words {name}"),
        words_change=_mean(words - first[:, 1], how, f"words change {name}") if number else None,
        best_share=wilson(int(best.sum()), len(best), how.confidence),
    )


def _facts(prompt: RankedPrompt) -> Scores:
    """(n, 3): verbose, words, ranked first by people (or of the highest quality)."""
    asked = prompt.prompt[-1].content
    order = [
        -(c.rank or 0) if c.rank is not None else (c.quality or 0.0) for c in prompt.candidates
    ]
    return np.array(
        [
            [is_verbose(asked, c.text, word_count(c.text)), word_count(c.text), o == max(order)]
            for c, o in zip(prompt.candidates, order, strict=True)
        ],
        dtype=np.float64,
    )


def _mean(values: Scores, how: Resampling, name: str) -> Interval:
    rng = how.rng("weights", name)
    return bootstrap_mean(values, rng, samples=how.samples, confidence=how.confidence)
