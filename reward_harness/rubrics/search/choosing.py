"""Choosing a search's shared rubric on held-out prompts, and measuring the choice on yet others.

The rubrics of the archive are compared on the validation prompts only; the numbers come from the
test prompts, which neither the search nor the choice has seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from reward_harness.data.records import RankedPrompt
from reward_harness.llm.event_loop import run_sync
from reward_harness.llm.roles import ModelRoles
from reward_harness.rubrics.heldout import (
    Heldout,
    agreement,
    candidates,
    difference,
    length_outcomes,
    select,
)
from reward_harness.rubrics.objective import Weights
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.problem import SearchPrompt, search_prompts
from reward_harness.rubrics.search.state import Member
from reward_harness.rubrics.types import Rubric
from reward_harness.sections import SearchConfig

PAIRS_A_PROMPT = 15
"""Judged pairs of a held-out prompt: all up to six candidates, a seeded choice of more."""
HELD_OUT = "on the validation prompts (best within one standard error)"
IN_SAMPLE = "by the search's own objective"


def evaluator_of(
    prompts: Sequence[SearchPrompt],
    config: SearchConfig,
    roles: ModelRoles | None,
    *,
    seed: int = 0,
) -> Evaluator:
    """An evaluator of any prompts with a search's objective and models."""
    weights = Weights(
        config.tail_fraction, config.lambda_var, config.mu_diverse, config.pair_confidence_prior
    )
    return Evaluator(prompts, weights, roles, seed)


def prompts_of(
    records: Sequence[RankedPrompt],
    config: SearchConfig,
    roles: ModelRoles | None,
    *,
    seed: int = 0,
) -> list[SearchPrompt]:
    """Records as the search sees them: extracted, and with the noise that it asks for."""
    return search_prompts(
        records,
        "labels" if roles is None else "model",
        extract=config.extract,
        candidate_extract=config.candidate_extract,
        noise=config.noise,
        seed=seed,
    )


def choose_shared(
    archive: Sequence[Member],
    initial: str,
    evaluator: Evaluator,
    validation: Sequence[int],
    test: Sequence[int],
    seed: int,
) -> tuple[Rubric, Heldout]:
    """The rubric to use and ``heldout.json``; ``initial`` is the digest of the one started from.

    ``validation`` and ``test`` are positions in ``evaluator.prompts``. Asks for every verdict that
    is missing there: ``LLMError``, ``BudgetExceeded``.
    """
    rubrics = [member.rubric for member in archive]
    run_sync(evaluator.prepare(rubrics, validation, pairs=PAIRS_A_PROMPT))
    outcomes = {r.digest: evaluator.outcomes(r, validation) for r in rubrics}
    chosen = select(archive, outcomes).rubric
    first_rubric = next((r for r in rubrics if r.digest == initial), rubrics[-1])
    run_sync(evaluator.prepare([chosen, first_rubric], test, pairs=PAIRS_A_PROMPT))
    found, first = evaluator.outcomes(chosen, test), evaluator.outcomes(first_rubric, test)
    compared = evaluator.compared
    return chosen, Heldout(
        scope="shared",
        selected=chosen.digest,
        selected_by=HELD_OUT if len(validation) else IN_SAMPLE,
        agreement=agreement(found, seed),
        initial=agreement(first, seed),
        difference=difference(found, first, seed),
        longer_wins=agreement(length_outcomes(evaluator, test, +1), seed),
        shorter_wins=agreement(length_outcomes(evaluator, test, -1), seed),
        validation_prompts=len(validation),
        unscored_responses=evaluator.evaluate(chosen, test).unscored,
        inconsistent_judgements=evaluator.inconsistent / compared if compared else None,
        candidates=candidates(archive, outcomes),
    )


def no_holdout(scope: str, selected: str, why: str) -> Heldout:
    """``heldout.json`` where nothing was held out; ``why`` says how the choice was made."""
    return Heldout(
        scope=scope,
        selected=selected,
        selected_by=why,
        agreement=None,
        initial=None,
        difference=None,
        longer_wins=None,
        shorter_wins=None,
        validation_prompts=0,
        unscored_responses=0,
        inconsistent_judgements=None,
        candidates=(),
    )
