"""Choosing each prompt's own rubric on candidates that its search never saw.

The held-out candidates of a prompt are of two kinds: pairs of one that *chooses* and one that was
searched on select among the archive's rubrics; pairs with one that *measures* are used for nothing
but the reported agreement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from reward_harness.llm.event_loop import run_sync
from reward_harness.rubrics.heldout import Heldout, Outcomes, agreement, difference, select
from reward_harness.rubrics.objective import Array, pair_agreement
from reward_harness.rubrics.search.choosing import IN_SAMPLE, no_holdout
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.holdout import HeldCandidates
from reward_harness.rubrics.search.rounds import ask_round
from reward_harness.rubrics.search.state import Member
from reward_harness.rubrics.types import Rubric

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Own:
    """One prompt (its position in the evaluator) and the rubrics that may become its own."""

    prompt: int
    archive: Sequence[Member]
    initial: str
    held: HeldCandidates | None


def choose_own(
    scope: str, owns: Sequence[Own], evaluator: Evaluator, seed: int
) -> tuple[dict[int, Rubric], Heldout]:
    """The rubric of each prompt, and how the chosen ones do on what only measures.

    ``evaluator`` has all candidates of the prompts. Asks for what is missing: ``LLMError``,
    ``BudgetExceeded``.
    """
    measured = [own for own in owns if own.held is not None]
    chosen = {own.prompt: select(own.archive, {}).rubric for own in owns}
    if not measured:
        return chosen, no_holdout(scope, "", f"{IN_SAMPLE}: nothing is held out")
    run_sync(ask_round([partial(_ask, evaluator, own) for own in measured]))
    for own in measured:
        outcomes = {
            m.rubric.digest: _each(evaluator, m.rubric, own.prompt, _pairs(evaluator, own)[0])
            for m in own.archive
        }
        chosen[own.prompt] = select(own.archive, outcomes).rubric
    return chosen, _measured(scope, owns, measured, chosen, evaluator, seed)


def _measured(
    scope: str,
    owns: Sequence[Own],
    measured: Sequence[Own],
    chosen: Mapping[int, Rubric],
    evaluator: Evaluator,
    seed: int,
) -> Heldout:
    found: dict[str, dict[int, list[float]]] = {n: {} for n in ("own", "first", "long", "short")}
    for own in measured:
        pairs, rubric = _pairs(evaluator, own)[1], chosen[own.prompt]
        first = next((m.rubric for m in own.archive if m.rubric.digest == own.initial), rubric)
        words = [float(len(text.split())) for text in evaluator.prompts[own.prompt].responses]
        for name, scores in (
            ("own", evaluator.scores(rubric, own.prompt)),
            ("first", evaluator.scores(first, own.prompt)),
            ("long", np.asarray(words)),
            ("short", -np.asarray(words)),
        ):
            found[name][own.prompt] = _outcomes(evaluator, scores, own.prompt, pairs)
    compared = evaluator.compared
    return Heldout(
        scope=scope,
        selected="",
        selected_by=f"on held-out candidates of {len(measured)} of {len(owns)} prompts "
        f"(best within one standard error), others {IN_SAMPLE}",
        agreement=agreement(found["own"], seed),
        initial=agreement(found["first"], seed),
        difference=difference(found["own"], found["first"], seed),
        longer_wins=agreement(found["long"], seed),
        shorter_wins=agreement(found["short"], seed),
        validation_prompts=len(measured),
        unscored_responses=sum(
            evaluator.evaluate(chosen[own.prompt], [own.prompt]).unscored for own in measured
        ),
        inconsistent_judgements=evaluator.inconsistent / compared if compared else None,
        candidates=(),
    )


async def _ask(evaluator: Evaluator, own: Own) -> None:
    """Have all grades of the prompt, and its held-out pairs judged."""
    await evaluator.grade([m.rubric for m in own.archive], [own.prompt])
    choosing, measuring = _pairs(evaluator, own)
    await evaluator.judge([(own.prompt, a, b) for a, b in (*choosing, *measuring)])


def _pairs(evaluator: Evaluator, own: Own) -> tuple[list[Pair], list[Pair]]:
    """Pairs (a < b) that choose, and those that measure."""
    if own.held is None:
        return [], []
    choosing, measuring = set(own.held.choosing), set(own.held.measuring)
    every = list(combinations(range(len(evaluator.prompts[own.prompt].responses)), 2))
    left = [pair for pair in every if not measuring & {*pair}]
    return [pair for pair in left if choosing & {*pair}], [p for p in every if measuring & {*p}]


def _each(evaluator: Evaluator, rubric: Rubric, prompt: int, pairs: Sequence[Pair]) -> Outcomes:
    """Outcomes by pair, so that their spread is that of pairs."""
    scores = evaluator.scores(rubric, prompt)
    return {n: _outcomes(evaluator, scores, prompt, [pair]) for n, pair in enumerate(pairs)}


def _outcomes(
    evaluator: Evaluator, scores: Array, prompt: int, pairs: Sequence[Pair]
) -> list[float]:
    judged = np.full_like(evaluator.judged[prompt], np.nan)
    for a, b in pairs:
        judged[a, b] = evaluator.judged[prompt][a, b]
    return pair_agreement(scores, judged)
