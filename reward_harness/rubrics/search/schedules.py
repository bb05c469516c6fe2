"""Mutation schedules: how often each mutation mode is tried, as pure functions of a serialisable
record of what the modes have achieved.

A mode *explores* if it brings new kinds of criteria into a rubric and *exploits* if it sharpens
what is there. With the six modes of the method, three of each:

- ``fixed``: the modes take turns.
- ``success_feedback``: in proportion to the share of a mode's last ``mutation_window_size``
  children that survived, never below ``min_mutation_weight``; a mode not tried yet counts as ½.
- ``exploration_decay``: until ``exploration_phase_ratio`` of the generations, exploring modes ×2
  and the others ×½ (.267 and .067 with six modes), then the other way round.
- ``diversity_driven``: linear in the population's diversity, from 2:1 for exploring modes at 0
  (.222 and .111) over even (.167) at half the threshold to 1:2 at the threshold and above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from reward_harness.manifest import Frozen
from reward_harness.sections import SearchConfig

EXPLORING = frozenset(
    {
        "decompose",
        "factual_focus",
        "counterexample_trigger",
        "substantiate",
        "add_penalty",
        "conditional_rule",
        "compare_alternatives",
        "accept_several",
        "order_and_timing",
        "actionability",
    }
)
"""All other modes exploit: raise_bar, anti_fluff, weight_perturb, make_specific, …"""

UNTRIED = 0.5
FAVOURED, NEGLECTED = 2.0, 0.5


class ModeRecord(Frozen):
    """What one mode's children came to."""

    recent: tuple[bool, ...] = Field(default=(), description="the last outcomes, newest last")
    tried: int = 0
    accepted: int = 0

    @property
    def rate(self) -> float:
        """Share of the recent children that were accepted."""
        return sum(self.recent) / len(self.recent) if self.recent else UNTRIED


class MutationStats(Frozen):
    """Outcomes by mode: part of a search's state."""

    modes: dict[str, ModeRecord] = Field(default_factory=dict)

    def of(self, mode: str) -> ModeRecord:
        """The record of ``mode``; an empty one if it was never tried."""
        return self.modes.get(mode, ModeRecord())


def credit(stats: MutationStats, mode: str, accepted: bool, window: int) -> MutationStats:
    """``stats`` with one more outcome of the child's own ``mode``."""
    before = stats.of(mode)
    after = ModeRecord(
        recent=(*before.recent, accepted)[-window:],
        tried=before.tried + 1,
        accepted=before.accepted + accepted,
    )
    return MutationStats(modes=dict(sorted({**stats.modes, mode: after}.items())))


def weights_of(
    config: SearchConfig,
    modes: Sequence[str],
    stats: MutationStats,
    generation: int,
    generations: int,
    diversity: float,
) -> dict[str, float]:
    """The probability of each mode in the generation that ``generation`` (from 0) counts; sum 1."""
    match config.adaptive_mutation:
        case "success_feedback":
            floor = config.min_mutation_weight
            raw = {mode: max(stats.of(mode).rate, floor) for mode in modes}
        case "exploration_decay":
            exploring = generation < config.exploration_phase_ratio * generations
            raw = _by_kind(modes, *((FAVOURED, NEGLECTED) if exploring else (NEGLECTED, FAVOURED)))
        case "diversity_driven":
            threshold = config.diversity_threshold
            reached = min(diversity / threshold, 1.0) if threshold > 0 else 1.0
            raw = _by_kind(modes, 2.0 - reached, 1.0 + reached)
        case "fixed":
            raw = dict.fromkeys(modes, 1.0)
    total = math.fsum(raw.values())
    if total == 0:
        return dict.fromkeys(modes, 1 / len(modes))
    return {mode: weight / total for mode, weight in raw.items()}


def _by_kind(modes: Sequence[str], exploring: float, exploiting: float) -> dict[str, float]:
    return {mode: exploring if mode in EXPLORING else exploiting for mode in modes}


def draw_modes(weights: Mapping[str, float], count: int, rng: np.random.Generator) -> list[str]:
    """``count`` modes in random order, each ⌊count·p⌋ or ⌈count·p⌉ times (systematic sampling).

    Few children a round are spread over the modes as evenly as their probabilities allow.
    """
    if count <= 0:
        return []
    names = list(weights)
    edges = np.cumsum([weights[name] for name in names])
    points = (np.arange(count) + rng.random()) / count * edges[-1]
    drawn = np.minimum(np.searchsorted(edges, points, side="right"), len(names) - 1)
    return [names[int(i)] for i in rng.permutation(drawn)]


def modes_in_turn(modes: Sequence[str], count: int, offset: int) -> list[str]:
    """What ``fixed`` does: the modes by turns, from the ``offset``-th turn of the search on."""
    return [modes[(offset + number) % len(modes)] for number in range(max(count, 0))]


def scheduled_modes(
    config: SearchConfig,
    weights: Mapping[str, float],
    count: int,
    offset: int,
    rng: np.random.Generator,
) -> list[str]:
    """The modes of a round's ``count`` children, by turns or drawn, as the configuration says."""
    if config.adaptive_mutation == "fixed":
        return modes_in_turn(list(weights), count, offset)
    return draw_modes(weights, count, rng)
