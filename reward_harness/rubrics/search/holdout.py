"""What a search may not see: a fraction of the prompts, drawn by prompt text and seed alone, or,
where each prompt gets its own rubric, of the candidates of every prompt that has enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reward_harness.data.records import RankedPrompt, prompt_key
from reward_harness.data.splits import first_prompts
from reward_harness.hashing import unit_interval

DEFAULT_HOLDOUT_FRACTION = 0.2
MIN_HELD_OUT = 4
"""Prompts: two to choose on and two to measure on are the least that give an interval."""
MIN_CANDIDATES = 6
"""Candidates of a prompt from which on some of them are held out."""


@dataclass(frozen=True, slots=True)
class HeldCandidates:
    """Positions of a prompt's candidates that choose its rubric, and of those that measure it."""

    choosing: tuple[int, ...]
    measuring: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Holdout:
    """The records by what they are for; ``note`` says why nothing was held out, where so.

    ``held`` has prompts of ``whole`` by id of which ``searched`` lacks these candidates.
    """

    searched: list[RankedPrompt]
    validation: list[RankedPrompt]
    test: list[RankedPrompt]
    note: str | None = None
    whole: list[RankedPrompt] = field(default_factory=list[RankedPrompt])
    held: Mapping[str, HeldCandidates] = field(default_factory=dict[str, HeldCandidates])

    @property
    def every(self) -> list[RankedPrompt]:
        """All records with all candidates: searched, validation, test."""
        return self.whole or [*self.searched, *self.validation, *self.test]


def hold_out(records: Sequence[RankedPrompt], fraction: float, scope: str, seed: int) -> Holdout:
    """Keep ``fraction`` of the prompts from the search; half of them choose, half measure."""

    def nothing(why: str) -> Holdout:
        return Holdout(list(records), [], [], f"no holdout: {why}")

    if fraction == 0:
        return nothing("--holdout-fraction is 0")
    if scope != "shared":
        held = held_candidates(records, fraction, seed)
        if not held:
            return nothing(
                f"each prompt has its own rubric, and none has {MIN_CANDIDATES} candidates"
            )
        return Holdout(without_held(records, held), [], [], whole=list(records), held=held)
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


def held_candidates(
    records: Sequence[RankedPrompt], fraction: float, seed: int
) -> dict[str, HeldCandidates]:
    """By prompt id, for prompts with enough candidates: ``fraction`` of them, at least two."""
    found: dict[str, HeldCandidates] = {}
    for record in records:
        ids = [c.candidate_id for c in record.candidates]
        if len(ids) < MIN_CANDIDATES or fraction == 0:
            continue
        count = max(2, int(len(ids) * fraction + 1e-9))
        draws = [unit_interval(seed, "held candidate", record.prompt_id, name) for name in ids]
        drawn = sorted(range(len(ids)), key=lambda i: draws[i])[:count]
        choosing = tuple(sorted(drawn[: count // 2]))
        found[record.prompt_id] = HeldCandidates(choosing, tuple(sorted(drawn[count // 2 :])))
    return found


def without_held(
    records: Sequence[RankedPrompt], held: Mapping[str, HeldCandidates]
) -> list[RankedPrompt]:
    """The records as a search of own rubrics sees them."""
    found: list[RankedPrompt] = []
    for record in records:
        hidden = held.get(record.prompt_id, HeldCandidates((), ()))
        out = {*hidden.choosing, *hidden.measuring}
        kept = [c for i, c in enumerate(record.candidates) if i not in out]
        found.append(record.model_copy(update={"candidates": kept}))
    return found
