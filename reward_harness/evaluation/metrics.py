"""The manifest's metrics of both reports: stable names, intervals, and which way is better.

``<policy>_reward_change`` and its like are under the served reward; a second scorer stands in the
name: ``<policy>_<scorer>_reward_change``.
"""

from __future__ import annotations

from typing import Literal

from reward_harness.evaluation.policies import PolicyMeasures, ScorerFigures
from reward_harness.evaluation.results import PolicyResults, RewardResults
from reward_harness.evaluation.reward_models import PairMeasures, RewardMeasures
from reward_harness.evaluation.statistics import Interval
from reward_harness.manifest import Metric

Direction = Literal["max", "min", "none"]


def reward_metrics(results: RewardResults) -> dict[str, Metric]:
    """Metrics of ``rm_report``."""
    found: dict[str, Metric] = {}
    if results.baselines:
        found["longer_wins_accuracy"] = results.baselines.longer_wins.metric()
        found["shorter_wins_accuracy"] = results.baselines.shorter_wins.metric()
    for reward in results.rewards:
        found |= _prefixed(reward.name, _of_reward(reward))
    for a in results.agreements:
        found[f"{a.first}_{a.second}_same_side"] = a.same_side.metric()
    return found


def policy_metrics(results: PolicyResults) -> dict[str, Metric]:
    """Metrics of ``policy_report``."""
    main, *others = [scorer.name for scorer in results.scorers]
    found: dict[str, Metric] = {}
    for policy in results.policies:
        found |= _prefixed(policy.name, _of_policy(policy))
        found |= _prefixed(policy.name, _of_scorer(policy.by_scorer[main]))
        for other in others:
            found |= _prefixed(f"{policy.name}_{other}", _of_scorer(policy.by_scorer[other]))
    return found


def _of_reward(reward: RewardMeasures) -> dict[str, Metric]:
    found = _known({"ranked_agreement": (reward.ranked, "max")})
    if reward.turns:
        found |= _known(
            {
                "multi_turn_accuracy": (reward.turns.whole, "max"),
                "over_last_turn": (reward.turns.difference, "none"),
                "truncated_share": (reward.turns.truncated, "min"),
            }
        )
    found |= _known(
        {f"spearman_{g.source.replace('-', '_')}": (g.spearman, "max") for g in reward.graded}
    )
    return found | (_of_pairs(reward.pairs) if reward.pairs else {})


def _of_pairs(pairs: PairMeasures) -> dict[str, Metric]:
    n = pairs.n_pairs
    return _known(
        {
            "accuracy": (pairs.accuracy, "max"),
            "over_longer": (pairs.over_longer, "max"),
            "over_shorter": (pairs.over_shorter, "max"),
            "length_controlled_accuracy": (pairs.length_controlled, "max"),
            "length_bias": (pairs.length_bias, "min"),
        }
    ) | {
        "ece": Metric(value=pairs.calibration.ece, n=n, direction="min"),
        "brier": Metric(value=pairs.calibration.brier, n=n, direction="min"),
        "unscored_share": Metric(value=pairs.unscored_share, n=n, direction="min"),
    }


def _of_policy(policy: PolicyMeasures) -> dict[str, Metric]:
    found = _known(
        {
            "kl": (policy.kl_sequence, "none"),
            "kl_token": (policy.kl_token, "none"),
            "response_tokens": (policy.length_tokens, "none"),
            "length_change": (policy.length_change, "none"),
            "verbose_rate": (policy.verbose_rate, "min"),
            "refusal_rate": (policy.refusal_rate, "none"),
            "repetition": (policy.repetition, "min"),
        }
    )
    if policy.distinct_2 is not None:
        found["distinct_2"] = Metric(value=policy.distinct_2, n=policy.n_samples, direction="max")
    return found


def _of_scorer(figures: ScorerFigures) -> dict[str, Metric]:
    found = _known(
        {
            "reward_mean": (figures.mean, "max"),
            "reward_change": (figures.change, "max"),
            "win_rate": (figures.win_rate, "max"),
            "gain_per_nat": (figures.gain_per_nat, "max"),
        }
    )
    found["unscored_share"] = Metric(value=figures.unscored_share, direction="min")
    return found


def _known(figures: dict[str, tuple[Interval | None, Direction]]) -> dict[str, Metric]:
    return {
        name: interval.metric(direction)
        for name, (interval, direction) in figures.items()
        if interval is not None
    }


def _prefixed(prefix: str, metrics: dict[str, Metric]) -> dict[str, Metric]:
    return {f"{prefix}_{name}": metric for name, metric in metrics.items()}
