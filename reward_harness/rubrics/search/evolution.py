"""The two algorithms, each as a pure step from one ``Unit`` to the next.

``evolutionary``: parents are chosen from the population, children are made on its hardest
prompts, duplicates by content dropped, losers of the race dropped (``racing``), elites and the
best survivors kept, the rest filled with the best children. ``iterative``: one rubric is refined
on its own two top responses and replaced if the child is not worse; responses that were looked at
are not looked at again (Refinement-through-Differentiation, arXiv 2509.21500) as long as two
others remain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reward_harness.errors import LLMError
from reward_harness.hashing import derive_seed
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.catalogue import rubric_of
from reward_harness.rubrics.objective import top_margin
from reward_harness.rubrics.search.admission import Bench, Newborns, admit, anchors, full_members
from reward_harness.rubrics.search.mutation import (
    FIT_WEIGHTS,
    Child,
    Plan,
    make_children,
    modes_of,
    top_two,
)
from reward_harness.rubrics.search.racing import Cells
from reward_harness.rubrics.search.schedules import (
    MutationStats,
    credit,
    scheduled_modes,
    weights_of,
)
from reward_harness.rubrics.search.selection import choose_parents, population_diversity
from reward_harness.rubrics.search.state import Member, Round, Unit, archived
from reward_harness.rubrics.types import Rubric
from reward_harness.sections import SearchConfig

IMPROVEMENT = 1e-9


async def start(bench: Bench, unit: Unit, preset: Rubric | None) -> tuple[Unit, Round]:
    """The first population: the initial rubric, the designer's others, and their children."""
    prompts = [bench.evaluator.prompts[i] for i in unit.prompts]
    found = [preset] if preset else await bench.designer.initial(prompts, None)
    rubrics = list({r.digest: r for r in found if isinstance(r, Rubric)}.values())
    if not rubrics:
        reason = next(r.error for r in found if isinstance(r, Failed))
        raise LLMError(f"no initial rubric could be had: {reason}", where=unit.unit_id)
    born: Newborns = [(r, "initial", None) for r in rubrics]
    unit = unit.model_copy(update={"initial": rubrics[0].digest})
    if bench.config.mode == "iterative":
        members = await full_members(bench, unit, born[:1])
        unit = unit.model_copy(update={"members": tuple(members)})
        return _closed(unit, members, [], 0, 0)
    unit, members = await admit(bench, unit, born)
    unit = unit.model_copy(update={"members": _sorted(members)})
    plans = _plans(bench, unit, bench.config.population_size - len(rubrics), unit.members)
    children = await _children(bench, unit, plans)
    fresh, duplicates = _distinct(children, {m.rubric.digest for m in members})
    unit, grown = await admit(bench, unit, fresh)
    ranked = _sorted([*members, *grown])[: bench.config.population_size]
    unit = unit.model_copy(update={"members": ranked})
    return _closed(unit, [*members, *grown], children, duplicates, len(grown))


async def evolve(bench: Bench, unit: Unit) -> tuple[Unit, Round]:
    """One generation."""
    config, before = bench.config, unit.best
    unit = unit.model_copy(update={"generation": unit.generation + 1})
    children = await _children(
        bench, unit, _plans(bench, unit, config.mutations_per_round, [unit.best])
    )
    known = {m.rubric.digest for m in (*unit.members, *unit.archive)}
    fresh, duplicates = _distinct(children, known)
    unit, born = await admit(bench, unit, fresh)
    members = survivors(unit.members, born, config)
    accepted = {m.rubric.digest for m in members} & {m.rubric.digest for m in born}
    unit = unit.model_copy(
        update={"members": members, "stats": _credited(unit, born, accepted, fresh, config)}
    )
    unit = unit.model_copy(update=_progress(bench, unit, before))
    return _closed(unit, born, children, duplicates, len(accepted))


async def recall(bench: Bench, unit: Unit) -> None:
    """Have the grades of a resumed unit again, from the verdict store or by code."""
    await bench.evaluator.grade([m.rubric for m in unit.members], unit.prompts)
    if unit.pool:
        pool = rubric_of(unit.pool, unit.members[0].rubric)
        await bench.evaluator.grade([pool], anchors(bench, unit) or Cells(unit.prompts))


async def refine(bench: Bench, unit: Unit) -> tuple[Unit, Round]:
    """One iteration on the hardest prompt that still has two unused responses."""
    current = unit.best
    chosen = _unused_pair(bench, unit, current.rubric)
    if chosen is None:
        return _closed(
            unit.model_copy(update={"finished": "all responses were used"}), [], [], 0, 0
        )
    prompt, pair = chosen
    mode = _refining_mode(bench, unit)
    unit = unit.model_copy(
        update={
            "generation": unit.generation + 1,
            "used": (*unit.used, *((prompt, response) for response in pair)),
        }
    )
    plan = Plan(current, mode, prompt, unit.generation, pair)
    children = await _children(bench, unit, [plan])
    fresh, duplicates = _distinct(children, {current.rubric.digest})
    born = await full_members(bench, unit, fresh)
    better = [m for m in born if m.score is not None and m.score >= (current.score or 0.0)]
    members = (better[0] if better else current,)
    accepted = {m.rubric.digest for m in better}
    stats = _credited(unit, born, accepted, fresh, bench.config)
    unit = unit.model_copy(update={"members": members, "stats": stats})
    if unit.generation >= bench.config.iterations:
        unit = unit.model_copy(update={"finished": "all iterations were made"})
    return _closed(unit, born, children, duplicates, len(better))


def rounds_of(config: SearchConfig) -> int:
    """Generations, or iterations, after the first population."""
    return config.iterations if config.mode == "iterative" else config.generations


def survivors(
    members: Sequence[Member], born: Sequence[Member], config: SearchConfig
) -> tuple[Member, ...]:
    """Elites and the surviving share of the old population, then the best of everyone else."""
    old = [m for m in _sorted(members) if m.score is not None]
    kept = old[: max(config.elitism_count, math.ceil(config.survival_fraction * len(members)), 1)]
    ids = {m.rubric.digest for m in kept}
    others = [m for m in (*old, *born) if m.score is not None and m.rubric.digest not in ids]
    room = max(config.population_size - len(kept), 0)
    return _sorted([*kept, *_sorted(others)[:room]])


def _refining_mode(bench: Bench, unit: Unit) -> str:
    """The mode of an iteration, which ``unit.generation`` (from 0) counts: by turns, or drawn."""
    config, done = bench.config, unit.generation
    modes = (*modes_of(bench.designer), *([FIT_WEIGHTS] if config.fit_weights else []))
    weights = weights_of(config, modes, unit.stats, done, rounds_of(config), diversity=0.0)
    return scheduled_modes(config, weights, 1, done, _rng(bench, unit, "modes"))[0]


def _progress(bench: Bench, unit: Unit, before: Member) -> dict[str, object]:
    """Stagnation count and, at the end, why the unit is finished."""
    config = bench.config
    gained = (unit.best.score or 0.0) > (before.score or 0.0) + IMPROVEMENT
    stagnation = 0 if gained else unit.stagnation + 1
    finished = None
    if _distinguished(bench, unit):
        finished = "its best responses are told apart"
    elif stagnation >= config.stagnation_generations:
        finished = f"no gain in {stagnation} generations"
    elif unit.generation >= rounds_of(config):
        finished = "all generations were made"
    return {"stagnation": stagnation, "finished": finished}


def _distinguished(bench: Bench, unit: Unit) -> bool:
    """Scope ``prompt_local``: the judge agrees on the best response, and its margin is reached."""
    config = bench.config
    if config.scope != "prompt_local" or not config.stop_when_distinguished:
        return False
    rubric, prompt = unit.best.rubric, unit.prompts[0]
    scores = bench.evaluator.scores(rubric, prompt)
    pair = top_two(scores)
    if pair is None or bench.evaluator.judged[prompt][pair] != 1:
        return False
    return top_margin(scores) >= config.distinguish_margin


def _plans(bench: Bench, unit: Unit, count: int, fitted: Sequence[Member]) -> list[Plan]:
    """``count`` children of the chosen parents, hard prompts by turns, and the fits."""
    config, rng = bench.config, _rng(bench, unit, "parents")
    parents = choose_parents(unit.members, config.mutation_parent_count, config, rng)
    offset = unit.generation * config.mutations_per_round
    diversity = population_diversity([m.rubric for m in unit.members])
    known = modes_of(bench.designer)
    rounds = rounds_of(config)
    weights = weights_of(config, known, unit.stats, unit.generation, rounds, diversity)
    modes = scheduled_modes(config, weights, count, offset, _rng(bench, unit, "modes"))
    hard = {p.rubric.digest: _hardest(bench, unit, p.rubric) for p in parents}
    plans: list[Plan] = []
    for number, mode in enumerate(modes):
        parent = parents[number % len(parents)]
        prompts = hard[parent.rubric.digest]
        prompt = prompts[number // len(parents) % len(prompts)]
        plans.append(Plan(parent, mode, prompt, offset + number))
    if config.fit_weights:
        plans += [Plan(m, FIT_WEIGHTS, unit.prompts[0], i) for i, m in enumerate(fitted)]
    return plans


def _hardest(bench: Bench, unit: Unit, rubric: Rubric) -> list[int]:
    """The ``batch_size`` hardest prompts for ``rubric``."""
    population = [m.rubric for m in unit.members]
    hardness = {i: bench.evaluator.hardness(population, rubric, i) for i in unit.prompts}
    return sorted(unit.prompts, key=lambda i: (-hardness[i], i))[: bench.config.batch_size]


def _unused_pair(bench: Bench, unit: Unit, rubric: Rubric) -> tuple[int, tuple[int, int]] | None:
    """The hardest prompt's two best unused responses; a prompt with two only may be used again."""
    used = set(unit.used)
    hardness = {i: bench.evaluator.hardness([rubric], rubric, i) for i in unit.prompts}
    reusable: tuple[int, tuple[int, int]] | None = None
    for prompt in sorted(unit.prompts, key=lambda i: (-hardness[i], i)):
        scores = bench.evaluator.scores(rubric, prompt)
        pair = top_two(scores, [r for p, r in used if p == prompt])
        if pair is not None:
            return prompt, pair
        if reusable is None and len(scores) == 2 and (again := top_two(scores)) is not None:
            reusable = prompt, again
    return reusable


async def _children(bench: Bench, unit: Unit, plans: Sequence[Plan]) -> list[Child]:
    seed = derive_seed(bench.seed, unit.unit_id, unit.generation)
    return await make_children(
        plans, bench.evaluator, bench.designer, seed, unit.prompts, bench.hardening
    )


def _distinct(
    children: Sequence[Child], known: set[str]
) -> tuple[list[tuple[Rubric, str, str | None]], int]:
    """Children whose content is new, and how many were not."""
    seen, fresh, duplicates = set(known), list[tuple[Rubric, str, str | None]](), 0
    for child in children:
        if isinstance(child.rubric, Failed):
            continue
        if child.rubric.digest in seen:
            duplicates += 1
            continue
        seen.add(child.rubric.digest)
        fresh.append((child.rubric, child.plan.mode, child.plan.parent.rubric.digest))
    return fresh, duplicates


def _credited(
    unit: Unit, born: Sequence[Member], accepted: set[str], fresh: Newborns, config: SearchConfig
) -> MutationStats:
    """Outcomes by the child's own mode; a child whose fitted weights won has won."""
    won = {(m.mode, m.parent) for m in born if m.rubric.digest in accepted}
    stats = unit.stats
    for _, mode, parent in fresh:
        stats = credit(stats, mode, (mode, parent) in won, config.mutation_window_size)
    return stats


def _closed(
    unit: Unit, born: Sequence[Member], children: Sequence[Child], duplicates: int, accepted: int
) -> tuple[Unit, Round]:
    """The unit with its archive brought up to date, and the round's line of history."""
    members = (*unit.members, *born)
    unit = unit.model_copy(update={"archive": archived(unit.archive, members, unit.initial)})
    scored = [m.score for m in unit.members if m.score is not None]
    modes: dict[str, int] = {}
    for child in children:
        modes[child.plan.mode] = modes.get(child.plan.mode, 0) + 1
    return unit, Round(
        unit=unit.unit_id,
        generation=unit.generation,
        best=unit.best.score,
        mean=float(np.mean(scored)) if scored else None,
        agreement=unit.best.agreement,
        best_rubric=unit.best.rubric.digest,
        children=len(children),
        duplicates=duplicates,
        failed=sum(isinstance(c.rubric, Failed) for c in children),
        accepted=accepted,
        modes=dict(sorted(modes.items())),
    )


def _sorted(members: Sequence[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda m: m.rank_key))


def _rng(bench: Bench, unit: Unit, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(bench.seed, unit.unit_id, unit.generation, purpose))
