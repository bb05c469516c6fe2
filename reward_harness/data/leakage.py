"""Near-duplicate prompts between splits: exact Jaccard similarity through an inverted index.

Splits keep equal prompts together; this finds the ones that are *almost* equal. Prefix filtering
(Chaudhuri, Ganti, Kaushik 2006; Xiao et al., PPJoin, 2008) makes it exact and fast: with shingles
sorted rarest first, two sets of similarity ≥ t share one among the first ``n - ⌈t·n⌉ + 1`` of each,
so boilerplate that every prompt has is never looked up.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from reward_harness.data.records import Message

WORD = re.compile(r"\w+")
SHINGLE_WORDS = 3
THRESHOLD = 0.8

Shingle = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A held-out prompt and the most similar training prompt, by their positions."""

    test: int
    train: int
    similarity: float


def prompt_text(prompt: Sequence[Message]) -> str:
    """All turns of a prompt as one text."""
    return "\n".join(message.content for message in prompt)


def shingles(text: str, words: int = SHINGLE_WORDS) -> frozenset[Shingle]:
    """The runs of ``words`` consecutive words; a shorter text is one shingle, an empty one none."""
    found = [w.casefold() for w in WORD.findall(text)]
    if not found:
        return frozenset()
    return frozenset(tuple(found[i : i + words]) for i in range(max(len(found) - words + 1, 1)))


def near_duplicates(
    test: Sequence[str],
    train: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    words: int = SHINGLE_WORDS,
) -> list[NearDuplicate]:
    """For each test text with a training text of Jaccard similarity ≥ ``threshold``.

    The most similar one.
    """
    test_sets = [shingles(t, words) for t in test]
    train_sets = [shingles(t, words) for t in train]
    frequency = Counter(s for group in (test_sets, train_sets) for one in group for s in one)
    index: dict[Shingle, list[int]] = defaultdict(list)
    for position, one in enumerate(train_sets):
        for shingle in _prefix(one, frequency, threshold):
            index[shingle].append(position)
    found: list[NearDuplicate] = []
    for position, one in enumerate(test_sets):
        candidates = {i for s in _prefix(one, frequency, threshold) for i in index.get(s, ())}
        scored = [(jaccard(one, train_sets[i]), -i) for i in candidates]
        if scored and max(scored)[0] >= threshold:
            similarity, negative = max(scored)
            found.append(NearDuplicate(position, -negative, similarity))
    return found


def jaccard(a: frozenset[Shingle], b: frozenset[Shingle]) -> float:
    """Size of the intersection over size of the union; two empty sets have nothing in common."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if shared else 0.0


def _prefix(
    one: frozenset[Shingle], frequency: Counter[Shingle], threshold: float
) -> list[Shingle]:
    """The rarest shingles of which a sufficiently similar set must share one."""
    # the tolerance keeps the prefix long enough where threshold * size is an integer up to rounding
    kept = len(one) - math.ceil(threshold * len(one) - 1e-9) + 1
    return sorted(one, key=lambda s: (frequency[s], s))[:kept]
