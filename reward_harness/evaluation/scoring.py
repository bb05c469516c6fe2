"""Asking any reward for the scores of preference pairs, ranked candidates and padded responses.

Everything else in this room computes on what these functions return. A missing score stays missing
(NaN in the arrays, counted in ``unscored``); no measurement ever replaces it by a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reward_harness.data.records import Message, PreferencePair, RankedPrompt, prompt_key
from reward_harness.rewards.base import BaseRM, Conversation

Scores = npt.NDArray[np.float64]

FILLER = (
    "It is also worth keeping in mind that there are many things to consider here. "
    "Overall, this is an important topic, and there is always more that could be said about it. "
    "I hope this helps, and feel free to let me know if there is anything else."
)
"""Three sentences that add length and nothing else."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A reward with the names under which a report speaks of it.

    ``name`` is a short slug for metrics (``rubric``, ``classifier``), ``label`` is for people, and
    ``digest`` names the artifact that the reward was loaded from.
    """

    name: str
    label: str
    rm: BaseRM
    digest: str


@dataclass(frozen=True, slots=True)
class PairScores:
    """Scores of both sides of ``n`` pairs, NaN where the scorer gave none."""

    pairs: Sequence[PreferencePair]
    chosen: Scores
    rejected: Scores

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Which pairs have a score on both sides."""
        return ~(np.isnan(self.chosen) | np.isnan(self.rejected))

    @property
    def unscored_share(self) -> float:
        """Share of pairs that lack a score on either side."""
        return float(1 - self.scored.mean()) if len(self.pairs) else 0.0

    @property
    def margins(self) -> Scores:
        """Chosen minus rejected, NaN where either is missing."""
        return self.chosen - self.rejected

    @property
    def spread(self) -> float:
        """Standard deviation of all scores given: the scorer's own unit."""
        both = np.concatenate([self.chosen, self.rejected])
        return float(np.nanstd(both)) if not np.isnan(both).all() else 0.0

    def clusters(self) -> list[str]:
        """The prompt of each pair, by content: pairs of one prompt are not independent."""
        return [prompt_key(pair.prompt) for pair in self.pairs]


def conversation(prompt: Sequence[Message], response: str) -> Conversation:
    """The prompt's turns and the response as the assistant's last one."""
    turns = [{"role": m.role, "content": m.content} for m in prompt]
    return [*turns, {"role": "assistant", "content": response}]


def score_texts(rm: BaseRM, conversations: Sequence[Conversation]) -> Scores:
    """One score for each conversation, NaN where there is none; equal ones are asked once."""
    if not conversations:
        return np.empty(0)
    keys = [tuple((turn["role"], turn["content"]) for turn in c) for c in conversations]
    unique = dict(zip(keys, conversations, strict=True))
    scores = dict(zip(unique, rm.score_batch(list(unique.values())), strict=True))
    found = [scores[key] for key in keys]
    return np.array([np.nan if s is None else s for s in found], dtype=np.float64)


def score_pairs(rm: BaseRM, pairs: Sequence[PreferencePair]) -> PairScores:
    """Both sides of all pairs, asked in one batch."""
    sides = [conversation(p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)]
    scores = score_texts(rm, sides)
    return PairScores(pairs, scores[0::2], scores[1::2])


def score_candidates(rm: BaseRM, prompts: Sequence[RankedPrompt]) -> list[Scores]:
    """The scores of each prompt's candidates, in their order, asked in one batch."""
    asked = [conversation(p.prompt, c.text) for p in prompts for c in p.candidates]
    scores = score_texts(rm, asked)
    ends = np.cumsum([len(p.candidates) for p in prompts])
    return list(np.split(scores, ends[:-1])) if prompts else []


def score_padded(rm: BaseRM, pairs: Sequence[PreferencePair]) -> PairScores:
    """The same pairs with ``FILLER`` appended to both responses."""
    sides = [
        conversation(p.prompt, f"{text.rstrip()}\n\n{FILLER}")
        for p in pairs
        for text in (p.chosen, p.rejected)
    ]
    scores = score_texts(rm, sides)
    return PairScores(pairs, scores[0::2], scores[1::2])


def word_count(text: str) -> int:
    """Length in whitespace words, the unit of every length rule here."""
    return len(text.split())
