"""How policies compare on the same held-out prompts: reward, win rate, KL, length, diversity.

Input is what each policy wrote (``PolicyOutput``) and the scorers to judge it: the reward that
training optimised and, beside it, another one where the experiment has it. The policy named
``reference`` is what all others are compared with, prompt by prompt. With several samples a prompt,
the mean over the samples is the prompt's value, and intervals are bootstrapped over prompts.

KL is estimated on response tokens by log p − log p_ref of the sampled tokens (k1, Schulman 2020),
both models untempered, summed over a response. Sampled at a temperature below 1 it only comes near
the KL of the untempered models, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reward_harness.data.records import Message
from reward_harness.evaluation.reward_models import Resampling
from reward_harness.evaluation.scoring import Scorer, Scores, conversation, score_texts
from reward_harness.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    paired_permutation_test,
    wilson,
)
from reward_harness.evaluation.texts import distinct_n, is_refusal, is_verbose, repetition
from reward_harness.manifest import Frozen


@dataclass(frozen=True, slots=True)
class Sample:
    """One response: its text, token count, whether it ended by itself, and its summed log ratio."""

    prompt_id: str
    prompt: Sequence[Message]
    text: str
    tokens: int
    ended: bool
    log_ratio: float | None
    """Σ over response tokens of log p − log p_ref; None for the reference itself."""


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """All samples of one policy; every policy has the same prompts in the same order."""

    name: str
    digest: str
    samples: Sequence[Sample]


class ScorerFigures(Frozen):
    """A policy seen by one scorer; comparisons with the reference are paired by prompt."""

    scorer: str
    mean: Interval | None
    std: float | None
    unscored_share: float
    change: Interval | None
    win_rate: Interval | None
    p_value: float | None
    gain_per_nat: Interval | None


class PolicyMeasures(Frozen):
    """Everything measured on one policy's responses."""

    name: str
    digest: str
    n_prompts: int
    n_samples: int
    by_scorer: dict[str, ScorerFigures]
    kl_sequence: Interval | None
    kl_token: Interval | None
    length_tokens: Interval
    length_change: Interval | None
    ended_share: Interval
    verbose_rate: Interval
    refusal_rate: Interval
    repetition: Interval
    distinct_1: float | None
    distinct_2: float | None


@dataclass(frozen=True, slots=True)
class PolicyComparison:
    """Measures of every policy, and each response's score by each scorer for the side-by-sides."""

    measures: list[PolicyMeasures]
    scores: Mapping[str, Mapping[str, Scores]]
    """``scores[policy][scorer]``, aligned with the policy's samples."""


def compare_policies(
    outputs: Sequence[PolicyOutput], scorers: Sequence[Scorer], reference: str, how: Resampling
) -> PolicyComparison:
    """Score every response with every scorer and measure each policy against ``reference``."""
    scores = {output.name: score_output(output, scorers) for output in outputs}
    by_name = {output.name: output for output in outputs}
    measures = [
        measure_policy(
            output,
            scores[output.name],
            None if output.name == reference else by_name[reference],
            scores[reference],
            how,
        )
        for output in outputs
    ]
    return PolicyComparison(measures, scores)


def score_output(output: PolicyOutput, scorers: Sequence[Scorer]) -> dict[str, Scores]:
    """Each scorer's score of each response, NaN where there is none."""
    asked = [conversation(sample.prompt, sample.text) for sample in output.samples]
    return {scorer.name: score_texts(scorer.rm, asked) for scorer in scorers}


def measure_policy(
    output: PolicyOutput,
    scores: Mapping[str, Scores],
    reference: PolicyOutput | None,
    reference_scores: Mapping[str, Scores],
    how: Resampling,
) -> PolicyMeasures:
    """One policy's figures; ``reference`` is None for the reference itself."""
    table = _ByPrompt(output, how)
    lengths = table.values(lambda s: s.tokens)
    return PolicyMeasures(
        name=output.name,
        digest=output.digest,
        n_prompts=len(table.groups),
        n_samples=len(output.samples),
        by_scorer={
            name: _figures(table, name, values, reference, reference_scores[name])
            for name, values in scores.items()
        },
        kl_sequence=table.interval("kl", table.kl) if table.kl is not None else None,
        kl_token=_kl_token(table, lengths),
        length_tokens=table.interval("length", lengths),
        length_change=_length_change(table, lengths, reference),
        ended_share=table.rate("ended", lambda s: s.ended),
        verbose_rate=table.rate("verbose", _verbose),
        refusal_rate=table.rate("refusal", lambda s: is_refusal(s.text)),
        repetition=table.interval("repetition", table.values(lambda s: repetition(s.text))),
        distinct_1=distinct_n([s.text for s in output.samples], 1),
        distinct_2=distinct_n([s.text for s in output.samples], 2),
    )


class _ByPrompt:
    """One policy's samples by prompt; a prompt's value is the mean over its samples."""

    def __init__(self, output: PolicyOutput, how: Resampling) -> None:
        self.name, self.samples, self.how = output.name, output.samples, how
        groups: dict[str, list[int]] = {}
        for index, sample in enumerate(output.samples):
            groups.setdefault(sample.prompt_id, []).append(index)
        self.groups = list(groups.values())
        ratios = [sample.log_ratio for sample in output.samples]
        known = [ratio for ratio in ratios if ratio is not None]
        self.kl = self.mean(np.array(known)) if len(known) == len(ratios) else None

    def mean(self, values: Scores) -> Scores:
        """Mean of each prompt's values that are there; NaN where a prompt has none."""
        return np.array([_mean_or_nan(values[group]) for group in self.groups])

    def values(self, measure: Callable[[Sample], float]) -> Scores:
        """``measure`` of each sample, averaged within prompts."""
        return self.mean(np.array([float(measure(sample)) for sample in self.samples]))

    def rate(self, purpose: str, measure: Callable[[Sample], bool]) -> Interval:
        """Share of samples that have it; Wilson's interval if they are one a prompt."""
        if len(self.groups) == len(self.samples):
            hits = sum(measure(sample) for sample in self.samples)
            return wilson(hits, len(self.samples), self.how.confidence)
        return self.interval(purpose, self.values(measure))

    def interval(self, purpose: str, values: Scores) -> Interval:
        """Mean over prompts with its bootstrap interval."""
        rng = self.how.rng(self.name, purpose)
        return bootstrap_mean(values, rng, samples=self.how.samples, confidence=self.how.confidence)


def _figures(
    table: _ByPrompt,
    name: str,
    values: Scores,
    reference: PolicyOutput | None,
    reference_values: Scores,
) -> ScorerFigures:
    own = table.mean(values)
    there = own[~np.isnan(own)]
    figures = ScorerFigures(
        scorer=name,
        mean=table.interval(f"{name} mean", there) if len(there) else None,
        std=float(np.nanstd(values)) if len(there) else None,
        unscored_share=float(np.isnan(values).mean()),
        change=None,
        win_rate=None,
        p_value=None,
        gain_per_nat=None,
    )
    if reference is None:
        return figures
    other = _ByPrompt(reference, table.how).mean(reference_values)
    both = ~(np.isnan(own) | np.isnan(other))
    if not both.any():
        return figures
    change = own[both] - other[both]
    rng = table.how.rng(table.name, name, "permutation")
    return figures.model_copy(
        update={
            "change": table.interval(f"{name} change", change),
            "win_rate": table.interval(f"{name} wins", (np.sign(change) + 1) / 2),
            "p_value": paired_permutation_test(own[both], other[both], rng),
            "gain_per_nat": _gain_per_nat(table, name, change, both),
        }
    )


def _gain_per_nat(table: _ByPrompt, name: str, change: Scores, both: np.ndarray) -> Interval | None:
    if table.kl is None:
        return None
    rng = table.how.rng(table.name, name, "per nat")
    kl = table.kl[both]
    return bootstrap_ratio(
        change, kl, rng, samples=table.how.samples, confidence=table.how.confidence
    )


def _kl_token(table: _ByPrompt, lengths: Scores) -> Interval | None:
    """Total log ratio over total response tokens, resampled over prompts."""
    if table.kl is None:
        return None
    rng = table.how.rng(table.name, "kl token")
    return bootstrap_ratio(
        table.kl, lengths, rng, samples=table.how.samples, confidence=table.how.confidence
    )


def _length_change(
    table: _ByPrompt, lengths: Scores, reference: PolicyOutput | None
) -> Interval | None:
    if reference is None:
        return None
    other = _ByPrompt(reference, table.how).values(lambda s: s.tokens)
    return table.interval("length change", lengths - other)


def _verbose(sample: Sample) -> bool:
    return is_verbose(sample.prompt[-1].content, sample.text, sample.tokens)


def _mean_or_nan(values: Scores) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
