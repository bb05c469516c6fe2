"""Who writes rubrics: a model in the roles initializer and proposer, or the template proposer that
needs none.

A designer's child is a function of its arguments (the random generator is derived from the
child's place in the search), so that it can be asked at any concurrency. ``weight_perturb`` and
``fit_weights`` need no designer: see ``mutation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from reward_harness.llm.roles import MAX_CRITERIA, ModelRoles
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.catalogue import (
    ENTRIES,
    Entry,
    broad_rubric,
    entry_of,
    initial_rubric,
    rubric_of,
)
from reward_harness.rubrics.search.problem import SearchPrompt
from reward_harness.rubrics.search.rounds import ask_round
from reward_harness.rubrics.types import Criterion, Rubric

BASIC = ("raise_bar", "decompose", "factual_focus", "anti_fluff", "counterexample_trigger")
"""The method's mutation modes, but for ``weight_perturb``, which needs no designer."""

SEMANTIC = (
    "substantiate",
    "add_penalty",
    "make_specific",
    "conditional_rule",
    "remove_redundancy",
    "compare_alternatives",
    "accept_several",
    "order_and_timing",
    "evidence_standard",
    "scope",
    "actionability",
)
"""The refinement kinds of "Chasing the Tail" (arXiv 2509.21500, table 3)."""

TEMPLATE_SEMANTIC = ("make_specific", "remove_redundancy")
"""Those of them that change catalogue criteria in a way of their own."""

MAX_INITIAL_PROMPTS = 4
MIN_CRITERIA = 2


@dataclass(frozen=True, slots=True)
class Context:
    """The two strong responses that a child is to tell apart; ``preferred`` is the judge's view.

    A model is never shown ``preferred``; the template proposer may use it.
    """

    prompt: str
    top: str
    runner_up: str
    preferred: int


class Designer(Protocol):
    """Writes first rubrics and changed rubrics."""

    @property
    def modes(self) -> tuple[str, ...]:
        """The mutation modes it knows, in the order in which they take turns."""
        ...

    async def initial(
        self, prompts: Sequence[SearchPrompt], like: Rubric | None
    ) -> list[Rubric | Failed]:
        """Starting rubrics; the first is the search's initial rubric."""
        ...

    async def child(
        self, parent: Rubric, mode: str, context: Context, rng: np.random.Generator, number: int
    ) -> Rubric | Failed:
        """A changed rubric; ``number`` tells apart children asked with equal arguments."""
        ...


class ModelDesigner:
    """A model writes the rubrics; without ``semantic`` by the basic modes only."""

    def __init__(
        self, roles: ModelRoles, semantic: bool = True, *, votes: int = 1, fallback: bool = False
    ) -> None:
        """``fallback``: where no first rubric can be read, start from the programmatic one."""
        self._votes = votes
        self.modes = (*BASIC, *SEMANTIC) if semantic else BASIC
        self._roles, self._fallback = roles, fallback

    async def initial(
        self, prompts: Sequence[SearchPrompt], like: Rubric | None
    ) -> list[Rubric | Failed]:
        """One rubric from each of the first few prompts."""
        first = prompts[:MAX_INITIAL_PROMPTS]
        asks = [partial(self._roles.initialize, p.text, p.responses) for p in first]
        answers = await ask_round(asks)
        if self._fallback and all(isinstance(a, Failed) for a in answers):
            return [initial_rubric()]
        made = [a if isinstance(a, Failed) else rubric_of(a, like) for a in answers]
        chosen = {"votes": self._votes}
        return [r if isinstance(r, Failed) else r.model_copy(update=chosen) for r in made]

    async def child(
        self, parent: Rubric, mode: str, context: Context, rng: np.random.Generator, number: int
    ) -> Rubric | Failed:
        """What the proposer answers."""
        criteria = await self._roles.propose(
            parent, mode, context.prompt, context.top, context.runner_up, number
        )
        return criteria if isinstance(criteria, Failed) else rubric_of(criteria, parent)


class TemplateDesigner:
    """Varies, adds and drops programmatic criteria of the catalogue."""

    def __init__(self, semantic: bool = True) -> None:
        self.modes = (*BASIC, *TEMPLATE_SEMANTIC) if semantic else BASIC

    async def initial(
        self, prompts: Sequence[SearchPrompt], like: Rubric | None
    ) -> list[Rubric | Failed]:
        """The fixed starting rubric, and one with every idea for the weights to choose from."""
        return [initial_rubric(), broad_rubric()]

    async def child(
        self, parent: Rubric, mode: str, context: Context, rng: np.random.Generator, number: int
    ) -> Rubric | Failed:
        """One change of the kind that ``mode`` names."""
        criteria = list(parent.criteria)
        match mode:
            case "raise_bar":
                changed = _moved(criteria, +1, rng)
            case "make_specific":
                changed = _moved(criteria, int(rng.choice([-1, 1])), rng)
            case "remove_redundancy":
                changed = _dropped(criteria, rng)
            case "counterexample_trigger":
                changed = [*criteria, _telling(context, rng)]
            case "factual_focus":
                changed = [*criteria, _drawn(criteria, ("substance",), rng)]
            case "anti_fluff":
                changed = [*criteria, _drawn(criteria, ("fluff",), rng)]
            case _:
                groups = ("substance", "fluff", "form", "manner")
                changed = [*criteria, _drawn(criteria, groups, rng)]
        return rubric_of(_bounded(changed, rng), parent)


def _moved(criteria: list[Criterion], step: int, rng: np.random.Generator) -> list[Criterion]:
    """One criterion at its next stricter (+1) or laxer (-1) variant; unchanged at the end."""
    found = [
        (i, e) for i, c in enumerate(criteria) if (e := entry_of(c)) and len(e[0].variants) > 1
    ]
    if not found:
        return criteria
    index, (entry, variant) = found[int(rng.integers(len(found)))]
    moved = min(max(variant + step, 0), len(entry.variants) - 1)
    criteria[index] = entry.criterion(moved, criteria[index].weight)
    return criteria


def _dropped(criteria: list[Criterion], rng: np.random.Generator) -> list[Criterion]:
    """Without one criterion, light ones more likely."""
    if len(criteria) <= MIN_CRITERIA:
        return criteria
    weights = np.array([1 / (0.1 + c.weight) for c in criteria])
    del criteria[int(rng.choice(len(criteria), p=weights / weights.sum()))]
    return criteria


def _drawn(
    criteria: list[Criterion], groups: tuple[str, ...], rng: np.random.Generator
) -> Criterion:
    """A new criterion of one of the groups, of an idea new to the rubric if possible."""
    have = {e[0].name for c in criteria if (e := entry_of(c))}
    choices = [e for e in ENTRIES if e.group in groups]
    fresh = [e for e in choices if e.name not in have] or choices
    entry: Entry = fresh[int(rng.integers(len(fresh)))]
    return entry.criterion(int(rng.integers(len(entry.variants))), _weight(rng))


def _telling(context: Context, rng: np.random.Generator) -> Criterion:
    """The criterion that most favours the preferred of the two responses."""
    sign = context.preferred or 1

    def favour(entry: Entry, variant: int) -> float:
        check = entry.variants[variant]
        gap = check.grade(context.prompt, context.top) - check.grade(
            context.prompt, context.runner_up
        )
        return sign * entry.polarity * gap

    ranked = sorted(
        ((favour(e, v), e.name, v) for e in ENTRIES for v in range(len(e.variants))), reverse=True
    )
    _, name, variant = ranked[int(rng.integers(min(3, len(ranked))))]
    entry = next(e for e in ENTRIES if e.name == name)
    return entry.criterion(variant, _weight(rng))


def _bounded(criteria: list[Criterion], rng: np.random.Generator) -> list[Criterion]:
    """At most twice as many criteria as a model may write; the lightest go first."""
    while len(criteria) > 2 * MAX_CRITERIA:
        criteria = _dropped(criteria, rng)
    return criteria


def _weight(rng: np.random.Generator) -> float:
    return round(float(rng.uniform(0.3, 1.5)), 2)
