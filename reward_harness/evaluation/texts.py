"""What can be measured on a response's text alone: verbosity, diversity, repetition, refusal."""

from __future__ import annotations

from collections.abc import Sequence

from reward_harness.rewards.programmatic import is_direct
from reward_harness.rubrics.wording import REFUSAL

LONG_RESPONSE_TOKENS = 200
SHORT_PROMPT_WORDS = 20
REFUSAL_CHARS = 200
"""A refusal is declared at the start: only this many characters are searched."""


def is_verbose(prompt: str, response: str, response_tokens: int) -> bool:
    """A hollow opener, or more than 200 tokens for a prompt of at most 20 words."""
    too_long = response_tokens > LONG_RESPONSE_TOKENS and len(prompt.split()) <= SHORT_PROMPT_WORDS
    return too_long or not is_direct(response)


def is_refusal(response: str) -> bool:
    """Whether the response's beginning declines to answer, by its wording."""
    return REFUSAL.search(response[:REFUSAL_CHARS]) is not None


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct n-grams of words over all n-grams of a corpus (Li et al. 2016); None without any."""
    grams = [gram for text in texts for gram in _ngrams(text.lower().split(), n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's n-grams of words that occurred before in it; 0 if it has none."""
    grams = _ngrams(text.lower().split(), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
