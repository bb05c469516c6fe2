"""Is the judge behind a rubric the same judge in both orders?

The labels a rubric was searched on are a judge's preferences between two responses. A judge that
prefers whatever it reads first teaches the rubric nothing, and only asking both ways shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from reward_harness.data.records import RankedPrompt
from reward_harness.llm.event_loop import run_sync
from reward_harness.llm.roles import Compared
from reward_harness.rewards.base import Failed
from reward_harness.rm.gate_rules import Swaps
from reward_harness.rubrics.extraction import extract
from reward_harness.rubrics.grading import prompt_text
from reward_harness.search_sections import GradedParts


class Judge(Protocol):
    """Compares two responses, asked in both orders."""

    async def compare(self, prompt: str, left: str, right: str, vote: int = 0) -> Compared | Failed:
        """The preference, and whether both orders gave it."""
        ...


def swap_consistency(
    judge: Judge, prompts: Sequence[RankedPrompt], graded: GradedParts, limit: int
) -> Swaps:
    """Ask about the first two different responses of at most ``limit`` prompts."""
    pairs: list[tuple[str, str, str]] = []
    for prompt in prompts:
        texts = list(dict.fromkeys(extract(graded.response, c.text) for c in prompt.candidates))
        if len(texts) > 1:
            pairs.append((extract(graded.prompt, prompt_text(prompt.prompt)), texts[0], texts[1]))
    pairs = pairs[:limit]

    async def ask() -> list[Compared | Failed]:
        return list(await asyncio.gather(*(judge.compare(*pair) for pair in pairs)))

    verdicts = [found for found in run_sync(ask()) if isinstance(found, Compared)]
    return Swaps(len(pairs), len(verdicts), sum(v.consistent for v in verdicts))
