"""How clearly one response of a pair is better, and keeping the clear pairs.

Where a reward model has scored the pairs, the confidence is |r_c − r_r|; where the source grades
its pairs, it is |margin|; without either, two texts that differ in length and in wording are easier
to tell apart: .4·min(|Δwords| / mean words, 1) + .6·(1 − Jaccard index of their word trigrams).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from reward_harness.data.records import PreferencePair
from reward_harness.errors import DataError
from reward_harness.hashing import unit_interval

LENGTH_SHARE, WORDING_SHARE = 0.4, 0.6
"""Weights of the two proxies."""


def trigram_similarity(first: str, second: str) -> float:
    """Jaccard index of word trigrams, of shorter texts of the whole text; 1 for equal texts.

    >>> trigram_similarity("the cat sat on the mat", "the dog sat on the mat quietly")
    0.2857142857142857
    """
    sides = [_trigrams(text.split()) for text in (first, second)]
    union = sides[0] | sides[1]
    return len(sides[0] & sides[1]) / len(union) if union else 1.0


def _trigrams(words: list[str]) -> set[tuple[str, ...]]:
    if len(words) < 3:
        return {tuple(words)} if words else set()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def proxy_confidence(chosen: str, rejected: str) -> float:
    """In [0, 1], without a model; see the module's docstring."""
    sizes = [len(text.split()) for text in (chosen, rejected)]
    mean = sum(sizes) / 2
    length = min(abs(sizes[0] - sizes[1]) / mean, 1.0) if mean else 0.0
    wording = 1.0 - trigram_similarity(chosen, rejected)
    return LENGTH_SHARE * length + WORDING_SHARE * wording


def confidences(pairs: Sequence[PreferencePair], by: str, seed: int = 0) -> list[float]:
    """The confidence of each pair, ``by`` its ``margin``, by ``proxy``, or by lot (``random``).

    ``DataError`` for a pair without a margin.
    """
    if by == "random":
        return [unit_interval("confidence", seed, pair.pair_id) for pair in pairs]
    if by == "proxy":
        return [proxy_confidence(pair.chosen, pair.rejected) for pair in pairs]
    found: list[float] = []
    for pair in pairs:
        if pair.margin is None:
            raise DataError(
                f"pair {pair.pair_id!r} has no margin",
                expected="a source that grades its pairs",
                fix="Set dataset.preferences.confidence.by to proxy.",
            )
        found.append(abs(pair.margin))
    return found


def keep_confident(
    pairs: Sequence[PreferencePair],
    confidence: Sequence[float],
    *,
    fraction: float | None = None,
    threshold: float | None = None,
    stratify: Callable[[PreferencePair], str] | None = None,
) -> list[PreferencePair]:
    """The pairs with the highest confidence, in their order.

    ``fraction`` keeps the top share, rounded up; ``threshold`` what reaches it. With ``stratify``
    the share is taken of each stratum by itself, so that no source or length is lost. Equal
    confidences are decided by the pair's id.
    """
    if (fraction is None) == (threshold is None):
        raise DataError("a filter keeps either a top fraction or what reaches a threshold")
    if fraction is None:
        return [p for p, c in zip(pairs, confidence, strict=True) if c >= (threshold or 0.0)]
    strata: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        strata[stratify(pair) if stratify else ""].append(index)
    kept: set[int] = set()
    for indices in strata.values():
        order = sorted(indices, key=lambda i: (-confidence[i], pairs[i].pair_id))
        # .55 * 100 is 55.000000000000007
        kept.update(order[: math.ceil(fraction * len(order) - 1e-9)])
    return [pair for index, pair in enumerate(pairs) if index in kept]


def length_stratum(pair: PreferencePair) -> str:
    """Which side is longer, in words: a filter by length alone would keep one of them."""
    chosen, rejected = len(pair.chosen.split()), len(pair.rejected.split())
    return "longer" if chosen > rejected else "shorter" if chosen < rejected else "equal"


STRATA: dict[str, Callable[[PreferencePair], str] | None] = {
    "none": None,
    "source": lambda pair: pair.source,
    "length": length_stratum,
}
"""By the name that an experiment gives it, the stratum of a pair."""
