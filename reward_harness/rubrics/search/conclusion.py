"""How a search ends: the rubrics that held-out data prefer, ready to score every prompt.

In scope ``shared`` the choice is made on held-out prompts, for rubrics of single prompts on
held-out candidates (``holdout``). Where nothing is held out, or a budget ends before, the search's
own objective has chosen, and the result says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from reward_harness.data.records import RankedPrompt
from reward_harness.errors import BudgetExceeded
from reward_harness.llm.event_loop import run_sync
from reward_harness.rubrics.heldout import Heldout
from reward_harness.rubrics.search.choosing import (
    IN_SAMPLE,
    choose_shared,
    evaluator_of,
    no_holdout,
    prompts_of,
)
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.holdout import Holdout
from reward_harness.rubrics.search.output import Choice
from reward_harness.rubrics.search.own_rubrics import Own, choose_own
from reward_harness.rubrics.search.session import SearchSession
from reward_harness.rubrics.types import Rubric

PHASE = "choosing on held-out data"


def conclude(session: SearchSession, holdout: Holdout, seed: int) -> tuple[Choice | None, Heldout]:
    """What was chosen for which records, and how well it does; no ``Choice`` where the session's
    own rubrics and prompts are all there is. A cap reached here is noted in the session.
    """
    out_of_budget = session.out_of_budget
    if out_of_budget is None and (holdout.test or holdout.held):
        try:
            return (_shared if holdout.test else _own)(session, holdout, seed)
        except BudgetExceeded as error:
            session.out_of_budget = error
    return _in_sample(session, holdout, seed)


def _shared(session: SearchSession, holdout: Holdout, seed: int) -> tuple[Choice, Heldout]:
    seen = [*holdout.searched, *holdout.validation]
    evaluator = _evaluator(session, seen, holdout.test, seed)
    unit = session.state.units[0]
    first, last, end = len(holdout.searched), len(seen), len(holdout.every)
    rubric, heldout = choose_shared(
        unit.archive, unit.initial, evaluator, range(first, last), range(last, end), seed
    )
    run_sync(evaluator.prepare([rubric], range(end)))
    return Choice(holdout.every, evaluator, [rubric] * end), heldout


def _own(session: SearchSession, holdout: Holdout, seed: int) -> tuple[Choice, Heldout]:
    evaluator = _evaluator(session, [], holdout.every, seed)
    owns = [
        Own(unit.prompts[0], unit.archive, unit.initial, holdout.held.get(unit.unit_id))
        for unit in session.state.units
    ]
    chosen, heldout = choose_own(session.config.scope, owns, evaluator, seed)
    rubrics = [chosen[index] for index in range(len(holdout.every))]
    _prepare(evaluator, rubrics)
    return Choice(holdout.every, evaluator, rubrics), heldout


def _in_sample(
    session: SearchSession, holdout: Holdout, seed: int
) -> tuple[Choice | None, Heldout]:
    """The best by the search's own objective."""
    units, scope = session.state.units, session.config.scope
    why = IN_SAMPLE if holdout.note is None else f"{IN_SAMPLE} ({holdout.note})"
    if session.out_of_budget is not None:
        why = f"{IN_SAMPLE} (the budget ended before the held-out data)"
    selected = units[0].best.rubric.digest if scope == "shared" else ""
    nothing = no_holdout(scope, selected, why)
    if not holdout.test and not holdout.held:
        if session.out_of_budget is None:
            for unit in units:
                run_sync(session.evaluator.prepare([unit.best.rubric], unit.prompts))
        return None, nothing
    every = holdout.every
    evaluator = _evaluator(session, every, [], seed)
    best = {index: unit.best.rubric for unit in units for index in unit.prompts}
    rubrics = [best.get(index, units[0].best.rubric) for index in range(len(every))]
    with suppress(BudgetExceeded):
        _prepare(evaluator, rubrics[: len(holdout.searched)])
    return Choice(every, evaluator, rubrics), nothing


def _evaluator(
    session: SearchSession,
    seen: Sequence[RankedPrompt],
    measured: Sequence[RankedPrompt],
    seed: int,
) -> Evaluator:
    """Of ``seen``, with the noise that the search asked for, then of ``measured`` without any."""
    config, roles = session.config, session.roles
    prompts = prompts_of(seen, config, roles, seed=seed)
    true_labels = config.model_copy(update={"noise": 0.0})
    prompts += prompts_of(measured, true_labels, roles, seed=seed)
    evaluator = evaluator_of(prompts, config, roles, seed=seed)
    session.watch(evaluator, PHASE)
    return evaluator


def _prepare(evaluator: Evaluator, rubrics: Sequence[Rubric]) -> None:
    """Ask what scoring each prompt by its rubric needs; prompts of one rubric together."""
    prompts: dict[str, list[int]] = {}
    for index, rubric in enumerate(rubrics):
        prompts.setdefault(rubric.digest, []).append(index)
    for indices in prompts.values():
        run_sync(evaluator.prepare([rubrics[indices[0]]], indices))
