"""Who enters the population: newborn rubrics race on the anchors, winners are graded on all.

Every newborn comes also with weights fitted to the judged pairs, and with it the best few of all
criteria that any rubric of the search ever had (``fit_weights``): this is how what single
proposals found comes together, at no call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward_harness.hashing import derive_seed
from reward_harness.llm.roles import MAX_CRITERIA
from reward_harness.rubrics.catalogue import rubric_of
from reward_harness.rubrics.search.designers import Designer
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.fitting import refit, strongest
from reward_harness.rubrics.search.hardening import SAFE_GAIN, Hardening
from reward_harness.rubrics.search.mutation import FIT_WEIGHTS
from reward_harness.rubrics.search.racing import PROMOTED, WORTH_GRADING, Cells, anchors_of
from reward_harness.rubrics.search.state import Member, Unit
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.sections import SearchConfig

POOL_SIZE = 64
Newborns = Sequence[tuple[Rubric, str, str | None]]
"""Rubrics that are not members yet, with mode and parent."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every step of a search works with."""

    evaluator: Evaluator
    designer: Designer
    config: SearchConfig
    seed: int
    hardening: Hardening | None = None


async def admit(bench: Bench, unit: Unit, born: Newborns) -> tuple[Unit, list[Member]]:
    """Race the newborn and what weights fitted to them give; the winners as full members.

    Without a race, or where grading costs nothing, all of them are members.
    """
    if bench.hardening is not None:  # checks cost no call, and weights are fitted already
        return unit, await full_members(bench, unit, born)
    unit = unit.model_copy(update={"pool": _pooled(unit, born)})
    rung = anchors(bench, unit)
    rubrics = [rubric for rubric, _, _ in born]
    if rung is None:
        await bench.evaluator.prepare(rubrics, unit.prompts)
        return unit, await full_members(
            bench, unit, [*born, *_fits(bench, unit, born, Cells(unit.prompts))]
        )
    await bench.evaluator.prepare(rubrics, rung, pairs="all")
    entrants = [*born, *_fits(bench, unit, born, rung)]
    winners = _winners(bench, unit, entrants, rung)
    first = [e for e in entrants if e[0].digest == unit.initial and e not in winners]
    return unit, await full_members(bench, unit, [*first, *winners])


def _winners(bench: Bench, unit: Unit, entrants: Newborns, rung: Cells) -> Newborns:
    """The few that order the anchors better than the best member, and enough so to be paid for."""
    bar = _merit(bench, unit.best.rubric, rung) if unit.members else (-1.0, -1.0)
    graded = {c.grading_digest for m in unit.members for c in m.rubric.criteria}
    found: list[tuple[tuple[float, float], str, tuple[Rubric, str, str | None]]] = []
    for entrant in entrants:
        rubric = entrant[0]
        merit = _merit(bench, rubric, rung)
        costs = any(c.grading_digest not in graded for c in rubric.llm_criteria)
        if merit > bar and (not costs or merit[0] >= bar[0] + WORTH_GRADING):
            found.append(((-merit[0], -merit[1]), rubric.digest, entrant))
    return [entrant for _, _, entrant in sorted(found, key=lambda f: f[:2])[:PROMOTED]]


def anchors(bench: Bench, unit: Unit) -> Cells | None:
    """The unit's first rung; None where nothing is raced."""
    if not bench.config.racing or bench.hardening is not None:
        return None
    sizes = [len(bench.evaluator.prompts[i].responses) for i in unit.prompts]
    return anchors_of(unit.prompts, sizes, derive_seed(bench.seed, unit.unit_id))


def _merit(bench: Bench, rubric: Rubric, anchors: Cells) -> tuple[float, float]:
    """Agreement with all judged pairs of the anchors, then the objective there."""
    found = bench.evaluator.evaluate(rubric, anchors)
    return (found.agreement or 0.0, -1.0 if found.score is None else found.score)


def _pooled(unit: Unit, born: Newborns) -> tuple[Criterion, ...]:
    """The latest different criteria that any rubric of the unit had."""
    every = {
        (c.grading_digest, c.polarity): c
        for c in (*unit.pool, *(c for rubric, _, _ in born for c in rubric.criteria))
    }
    return tuple(every.values())[-POOL_SIZE:]


def _fits(bench: Bench, unit: Unit, born: Newborns, cells: Cells) -> Newborns:
    """Each newborn with weights fitted on ``cells``, and the best few of the pool's criteria."""
    if not bench.config.fit_weights:
        return []
    evaluator = bench.evaluator
    known = {m.rubric.digest for m in (*unit.members, *unit.archive)} | {
        r.digest for r, _, _ in born
    }
    found: dict[str, tuple[Rubric, str, str | None]] = {}
    for rubric, mode, parent in born:
        fitted = refit(rubric, evaluator.differences(rubric, cells))
        if fitted is not None and fitted.digest not in known:
            found.setdefault(fitted.digest, (fitted, mode, parent))
    like = born[0][0] if born else unit.best.rubric
    pool = rubric_of(unit.pool, like)
    chosen = strongest(pool, evaluator.differences(pool, cells), MAX_CRITERIA)
    best = None if chosen is None else refit(chosen, evaluator.differences(chosen, cells))
    if best is not None and best.digest not in known:
        found.setdefault(best.digest, (best, FIT_WEIGHTS, None))
    return list(found.values())


async def full_members(bench: Bench, unit: Unit, rubrics: Newborns) -> list[Member]:
    """Evaluate rubrics on all of the unit's prompts, all of a round at once."""
    if not rubrics:
        return []
    await bench.evaluator.prepare([r for r, _, _ in rubrics], unit.prompts)
    members: list[Member] = []
    for rubric, mode, parent in rubrics:
        found = bench.evaluator.evaluate(rubric, unit.prompts)
        members.append(
            Member(
                rubric=rubric,
                score=found.score,
                agreement=found.agreement,
                tail_acc=found.tail_acc,
                diverse_tail_acc=found.diverse_tail_acc,
                tail_var=found.tail_var,
                unscored=found.unscored,
                safe=_is_safe(bench, rubric),
                mode=mode,
                parent=parent,
                born=unit.generation,
            )
        )
    return members


def _is_safe(bench: Bench, rubric: Rubric) -> bool:
    """Model-graded rubrics are not attacked here: each attack would cost calls."""
    if bench.hardening is None or rubric.needs_llm:
        return True
    return bench.hardening.gain(rubric) <= SAFE_GAIN
