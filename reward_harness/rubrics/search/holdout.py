"""Which prompts a search may not see: a fraction, drawn by prompt text and seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward_harness.data.records import RankedPrompt, prompt_key
from reward_harness.data.splits import first_prompts

MIN_HELD_OUT = 4
"""Prompts: two to choose on and two to measure on are the least that give an interval."""


@dataclass(frozen=True, slots=True)
class Holdout:
    """The records by what they are for; ``note`` says why nothing was held out, where so."""

    searched: list[RankedPrompt]
    validation: list[RankedPrompt]
    test: list[RankedPrompt]
    note: str | None = None

    @property
    def every(self) -> list[RankedPrompt]:
        """All records: searched, validation, test."""
        return [*self.searched, *self.validation, *self.test]


def hold_out(records: Sequence[RankedPrompt], fraction: float, scope: str, seed: int) -> Holdout:
    """Keep ``fraction`` of the prompts from the search; half of them choose, half measure."""

    def nothing(why: str) -> Holdout:
        return Holdout(list(records), [], [], f"no holdout: {why}")

    if scope != "shared":
        return nothing("each prompt has its own rubric")
    if fraction == 0:
        return nothing("--holdout-fraction is 0")
    prompts = len({prompt_key(r.prompt) for r in records})
    count = int(prompts * fraction + 1e-9)
    if count < MIN_HELD_OUT:
        return nothing(
            f"{fraction:g} of {prompts} prompts are {count}, at least {MIN_HELD_OUT} are needed"
        )
    held = first_prompts(records, count, seed)
    choosing = {id(r) for r in first_prompts(held, count // 2, seed)}
    kept = {id(r) for r in held}
    return Holdout(
        [r for r in records if id(r) not in kept],
        [r for r in held if id(r) in choosing],
        [r for r in held if id(r) not in choosing],
    )
