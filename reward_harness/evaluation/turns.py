"""Does a reward use the conversation, or its last turn only? And does it read it to the end?

``measure_turns`` scores the multi-turn held-out pairs a second time with the last user turn alone.
The share of conversations that the reward cannot hold is counted where it tells how many tokens it
read (``tokens_scored``) and has a limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reward_harness.data.records import PreferencePair
from reward_harness.evaluation.calibration import outcomes_of
from reward_harness.evaluation.resampling import Resampling
from reward_harness.evaluation.scoring import (
    PairScores,
    Scorer,
    Scores,
    conversation,
    score_pairs,
)
from reward_harness.evaluation.statistics import Interval, cluster_bootstrap_mean, wilson
from reward_harness.manifest import Frozen
from reward_harness.rewards.base import BaseRM, Scored

MAX_PAIRS = 256
"""Multi-turn pairs that are scored a second time; more would only add cost."""


class TurnMeasures(Frozen):
    """Accuracy on multi-turn pairs from the whole conversation and from its last turn.

    ``difference`` is whole minus last, on the same pairs; ``truncated`` the share of conversations
    longer than the reward reads, None where it has no limit.
    """

    n_pairs: int
    whole: Interval
    last_turn: Interval
    difference: Interval
    truncated: Interval | None


def measure_turns(scorer: Scorer, scores: PairScores, how: Resampling) -> TurnMeasures | None:
    """``scores`` are those of whole conversations; None where no scored pair has several turns."""
    chosen = [i for i, pair in enumerate(scores.pairs) if len(pair.prompt) > 1][:MAX_PAIRS]
    pairs = [scores.pairs[i] for i in chosen]
    last = score_pairs(scorer.rm, [_last_turn(pair) for pair in pairs])
    both = scores.scored[chosen] & last.scored if chosen else np.empty(0, bool)
    if not both.any():
        return None
    whole = outcomes_of(scores.margins[chosen][both])
    short = outcomes_of(last.margins[both])
    clusters = np.array([scores.clusters()[i] for i in chosen])[both].tolist()

    def interval(values: Scores, name: str) -> Interval:
        rng = how.rng(scorer.name, "turns", name)
        return cluster_bootstrap_mean(
            values, clusters, rng, samples=how.samples, confidence=how.confidence
        )

    return TurnMeasures(
        n_pairs=int(both.sum()),
        whole=interval(whole, "whole"),
        last_turn=interval(short, "last"),
        difference=interval(whole - short, "difference"),
        truncated=truncated_share(scorer.rm, scores.pairs[:MAX_PAIRS]),
    )


def truncated_share(rm: BaseRM, pairs: Sequence[PreferencePair]) -> Interval | None:
    """Share of the pairs' conversations that fill the reward's limit of tokens."""
    settings = getattr(getattr(rm, "model", None), "settings", None)
    limit: int | None = getattr(settings, "max_length", None)
    if limit is None or not pairs:
        return None
    asked = [conversation(p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)]
    read = [
        result.details["tokens_scored"]
        for result in rm.score_batch_results(asked)
        if isinstance(result, Scored) and "tokens_scored" in result.details
    ]
    return wilson(sum(n >= limit for n in read), len(read)) if read else None


def _last_turn(pair: PreferencePair) -> PreferencePair:
    return pair.model_copy(update={"prompt": [pair.prompt[-1]]})
