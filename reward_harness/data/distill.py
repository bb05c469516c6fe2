"""Preference pairs from responses that were scored several times: only differences beyond noise.

Of each prompt the best response meets the worst, and each response the next best (a hard negative).
A pair is kept if its margin is a given share of the range of the scores that are trained on, and
more than the sum of both responses' spreads times a factor, up to a number of pairs for a prompt,
widest first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise

from reward_harness.data.records import PreferencePair, prompt_key
from reward_harness.data.scored import ScoredResponse
from reward_harness.manifest import Frozen
from reward_harness.sections import DistilledSection


class Origin(Frozen):
    """The two scored responses that a pair was made from; ids are those of ``raw_scores.jsonl``."""

    pair_id: str
    chosen_id: str
    rejected_id: str
    margin: float
    noise: float


def distilled_pairs(
    rows: Sequence[ScoredResponse],
    section: DistilledSection,
    trained_on: Callable[[str], bool] = lambda key: True,
) -> tuple[list[PreferencePair], list[Origin]]:
    """The pairs of all prompts in the order of their first response, and where each came from.

    ``trained_on`` says of a ``prompt_key`` whether it is in the training split: what is held out
    does not decide which pairs are trained on.
    """
    scores = [row.score for row in rows if trained_on(prompt_key(row.prompt))]
    spread = max(scores, default=0.0) - min(scores, default=0.0)
    groups: dict[str, list[ScoredResponse]] = defaultdict(list)
    for row in rows:
        groups[prompt_key(row.prompt)].append(row)
    pairs: list[PreferencePair] = []
    origins: list[Origin] = []
    for group in groups.values():
        for better, worse in _of_prompt(group, spread, section):
            margin = better.score - worse.score
            name = f"{better.response_id}>{worse.response_id}"
            pairs.append(
                PreferencePair(
                    pair_id=name,
                    prompt=better.prompt,
                    chosen=better.response,
                    rejected=worse.response,
                    source="distilled",
                    margin=margin,
                )
            )
            origins.append(
                Origin(
                    pair_id=name,
                    chosen_id=better.response_id,
                    rejected_id=worse.response_id,
                    margin=margin,
                    noise=better.std + worse.std,
                )
            )
    return pairs, origins


def _of_prompt(
    group: Sequence[ScoredResponse], spread: float, section: DistilledSection
) -> list[tuple[ScoredResponse, ScoredResponse]]:
    ordered = sorted(group, key=lambda row: (-row.score, row.response_id))
    if len(ordered) < 2:
        return []
    candidates = [(ordered[0], ordered[-1]), *pairwise(ordered)]
    unique = {(a.response_id, b.response_id): (a, b) for a, b in candidates}
    kept = [
        (a, b)
        for a, b in unique.values()
        if a.response != b.response
        and a.score - b.score >= section.min_margin * spread
        and a.score - b.score > section.noise_factor * (a.std + b.std)
    ]
    kept.sort(key=lambda pair: pair[1].score - pair[0].score)
    return kept[: section.max_pairs_per_prompt]
