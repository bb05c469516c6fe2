"""Making children: which parent, which mode, which pair of responses, and the modes that need no
designer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from reward_harness.hashing import derive_seed
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.catalogue import rubric_of
from reward_harness.rubrics.objective import Array
from reward_harness.rubrics.search.designers import Context, Designer
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.fitting import refit
from reward_harness.rubrics.search.hardening import Hardening
from reward_harness.rubrics.search.rounds import ask_round
from reward_harness.rubrics.search.state import Member
from reward_harness.rubrics.types import Rubric

WEIGHT_PERTURB = "weight_perturb"
FIT_WEIGHTS = "fit_weights"
PERTURB_SPREAD = 0.4


@dataclass(frozen=True, slots=True)
class Plan:
    """A child to be made; without a ``pair`` it is to tell the parent's two top responses apart."""

    parent: Member
    mode: str
    prompt: int
    number: int
    pair: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Child:
    """A child that was made, or why it was not."""

    plan: Plan
    rubric: Rubric | Failed


def modes_of(designer: Designer) -> tuple[str, ...]:
    """The designer's modes and the ones that need none, in the order in which they take turns."""
    return (*designer.modes, WEIGHT_PERTURB)


async def make_children(
    plans: Sequence[Plan],
    evaluator: Evaluator,
    designer: Designer,
    seed: int,
    prompts: Sequence[int],
    hardening: Hardening | None = None,
) -> list[Child]:
    """All children of a round, in the order of ``plans``; every answer is waited for.

    With ``hardening`` (a search of programmatic criteria, where fitting costs nothing) every child
    but a perturbed one gets fitted weights that no attack can exploit.
    """

    def fitted(rubric: Rubric) -> Rubric | None:
        limits = None if hardening is None or rubric.needs_llm else hardening.limits(rubric)
        return refit(rubric, evaluator.differences(rubric, prompts), limits)

    async def one(plan: Plan) -> Rubric | Failed:
        rng = np.random.default_rng(derive_seed(seed, plan.mode, plan.number))
        parent = plan.parent.rubric
        if plan.mode == WEIGHT_PERTURB:
            return perturbed(parent, rng)
        if plan.mode == FIT_WEIGHTS:
            return fitted(parent) or Failed("no weights separate the judged pairs")
        context = context_of(evaluator, parent, plan.prompt, plan.pair)
        if context is None:
            return Failed("fewer than two scored responses")
        made = await designer.child(parent, plan.mode, context, rng, plan.number)
        if hardening is None or isinstance(made, Failed):
            return made
        return fitted(made) or made

    rubrics = await ask_round([partial(one, plan) for plan in plans], evaluator.tally)
    return [Child(plan, rubric) for plan, rubric in zip(plans, rubrics, strict=True)]


def context_of(
    evaluator: Evaluator, rubric: Rubric, prompt: int, pair: tuple[int, int] | None = None
) -> Context | None:
    """``pair``, better first, or the rubric's two top responses to a prompt."""
    pair = pair or top_two(evaluator.scores(rubric, prompt))
    if pair is None:
        return None
    top, runner_up = pair
    verdict = evaluator.judged[prompt][top, runner_up]
    responses = evaluator.prompts[prompt].responses
    return Context(
        prompt=evaluator.prompts[prompt].text,
        top=responses[top],
        runner_up=responses[runner_up],
        preferred=0 if np.isnan(verdict) else int(verdict),
    )


def top_two(scores: Array, without: Sequence[int] = ()) -> tuple[int, int] | None:
    """Indices of the two best scored responses; None if there are not two."""
    order = [int(i) for i in np.argsort(-scores, kind="stable")]
    left = [i for i in order if not np.isnan(scores[i]) and i not in without]
    return (left[0], left[1]) if len(left) > 1 else None


def perturbed(rubric: Rubric, rng: np.random.Generator) -> Rubric:
    """The same criteria with log-normally varied weights."""
    factors = np.exp(rng.normal(0.0, PERTURB_SPREAD, len(rubric.criteria)))
    return rubric_of(
        [
            c.model_copy(update={"weight": round(max(c.weight, 0.05) * float(f), 3)})
            for c, f in zip(rubric.criteria, factors, strict=True)
        ],
        rubric,
    )
