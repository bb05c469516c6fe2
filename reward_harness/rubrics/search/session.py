"""A search that can be stepped, stopped and resumed: ``search_rubrics`` and ``SearchSession``.

    session = SearchSession.create(records, SearchConfig(backend="heuristic"), seed=7)
    while session.step():
        session.checkpoint(path)
    rubric = session.result().best_rubrics["__shared__"]

A checkpoint is written after every generation where a path is given. A budget ends the search
cleanly: the state of the last complete generation is the result, and a later session goes on
from it; answers of the unfinished generation are kept in the verdict store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_harness.data.records import RankedPrompt
from reward_harness.errors import BudgetExceeded, DataError
from reward_harness.llm.backends import resolve_backend
from reward_harness.llm.budget import known_usd
from reward_harness.llm.event_loop import run_sync
from reward_harness.rubrics.files import SHARED
from reward_harness.rubrics.search.admission import Bench
from reward_harness.rubrics.search.choosing import evaluator_of, prompts_of
from reward_harness.rubrics.search.designers import ModelDesigner, TemplateDesigner
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.evolution import evolve, recall, refine, rounds_of, start
from reward_harness.rubrics.search.hardening import Hardening
from reward_harness.rubrics.search.state import (
    Member,
    Round,
    SearchState,
    Spent,
    Unit,
    read_checkpoint,
    write_checkpoint,
)
from reward_harness.rubrics.search.surroundings import (
    Surroundings,
    identity,
    open_search_roles,
)
from reward_harness.rubrics.search.telling import Teller
from reward_harness.rubrics.types import Rubric
from reward_harness.sections import SearchConfig


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    ``best_rubrics`` are by prompt id, or under ``__shared__``: the best by the search's own
    objective. Select on held-out prompts (``heldout.select``) before using one.
    """

    state: SearchState
    spent: Spent
    stopped: str
    out_of_budget: BudgetExceeded | None
    backend: str
    roles_calls: Mapping[str, int]
    inconsistent_share: float | None

    @property
    def best_rubrics(self) -> dict[str, Rubric]:
        """The best rubric of each unit."""
        return {unit.unit_id: unit.best.rubric for unit in self.state.units}

    @property
    def best_members(self) -> dict[str, Member]:
        """The same with what is known of them."""
        return {unit.unit_id: unit.best for unit in self.state.units}


class SearchSession:
    """One search: create or resume it, step it, look at it, leave it as a checkpoint."""

    def __init__(
        self,
        records: Sequence[RankedPrompt],
        config: SearchConfig,
        seed: int,
        around: Surroundings,
        state: SearchState | None = None,
    ) -> None:
        if not records:
            raise DataError("a search needs at least one prompt")
        self.records, self.config, self.around = list(records), config, around
        self.backend = resolve_backend(config)
        self.roles = open_search_roles(config, around, state.spent if state else None)
        dataset, settings = identity(records, config, seed, around)
        self.state = state or SearchState(dataset=dataset, config=settings)
        self._before = self.state.spent
        prompts = prompts_of(records, config, self.roles, seed=seed)
        self.evaluator = evaluator_of(prompts, config, self.roles, seed=seed)
        self._teller = Teller(self, around.progress)
        self.evaluator.tally.changed = self._teller.answered
        designer = (
            TemplateDesigner(config.semantic_operators)
            if self.roles is None
            else ModelDesigner(
                self.roles,
                config.semantic_operators,
                votes=config.votes,
                fallback=self.backend == "local",
            )
        )
        hardening = Hardening(prompts) if self.roles is None else None
        self._bench = Bench(self.evaluator, designer, config, seed, hardening)
        self._recalled = state is None
        self.out_of_budget: BudgetExceeded | None = None

    @classmethod
    def create(
        cls,
        records: Sequence[RankedPrompt],
        config: SearchConfig,
        *,
        seed: int = 7,
        around: Surroundings | None = None,
    ) -> SearchSession:
        """A new search; nothing is asked before the first ``step``."""
        return cls(records, config, seed, around or Surroundings())

    @classmethod
    def resume(
        cls,
        records: Sequence[RankedPrompt],
        config: SearchConfig,
        path: Path,
        *,
        seed: int = 7,
        around: Surroundings | None = None,
    ) -> SearchSession:
        """Go on from a checkpoint; ``SpecError`` if it is of another data set or configuration."""
        around = around or Surroundings()
        state = read_checkpoint(path, *identity(records, config, seed, around))
        return cls(records, config, seed, around, state)

    def step(self) -> bool:
        """One generation; False once the search has finished. ``BudgetExceeded`` at a cap."""
        if self.finished:
            return False
        run_sync(self._step())
        return not self.finished

    def run(self) -> SearchResult:
        """All generations that are left; a cap ends it with what there is, if there is anything."""
        try:
            while self.step():
                pass
        except BudgetExceeded as error:
            self.out_of_budget = error
            if not self.state.units:
                raise
        return self.result()

    def checkpoint(self, path: Path) -> None:
        """Write the state of the last complete generation."""
        write_checkpoint(path, self.state)

    def result(self) -> SearchResult:
        """What has been found so far; ``DataError`` before the first step."""
        if not self.state.units:
            raise DataError("the search has not made its first population yet")
        reasons = sorted({u.finished for u in self.state.units if u.finished})
        compared = self.evaluator.compared
        return SearchResult(
            state=self.state,
            spent=self.spent(),
            stopped=str(self.out_of_budget or "; ".join(reasons)),
            out_of_budget=self.out_of_budget,
            backend=self.backend,
            roles_calls={} if self.roles is None else dict(self.roles.gateway.usage.calls_by_role),
            inconsistent_share=self.evaluator.inconsistent / compared if compared else None,
        )

    def watch(self, evaluator: Evaluator, phase: str) -> None:
        """Tell also of the questions that ``evaluator`` asks after the search."""
        self._teller.watch(evaluator.tally, phase)

    def close(self) -> None:
        """Close connections and store."""
        if self.roles is not None:
            run_sync(self.roles.aclose())

    @property
    def finished(self) -> bool:
        """Whether every unit has finished, or the generations of a global batch are over."""
        units = self.state.units
        if self.config.scope == "global_batch" and self.state.generation > rounds_of(self.config):
            return True
        return bool(units) and all(unit.finished for unit in units)

    async def _step(self) -> None:
        self.evaluator.tally.begin()
        if not self.state.units:
            units = self._units()
            made = await _together(
                [start(self._bench, u, self.around.preset_of(u.unit_id)) for u in units]
            )
        else:
            await self._recall()
            advance = refine if self.config.mode == "iterative" else evolve
            made = await _together([advance(self._bench, unit) for unit in self._active()])
        changed = {unit.unit_id: unit for unit, _ in made}
        before = self.state.units or self._units()
        self.state = self.state.model_copy(
            update={
                "generation": self.state.generation + 1,
                "units": tuple(changed.get(u.unit_id, u) for u in before),
                "history": (*self.state.history, *(line for _, line in made)),
                "verdicts": self.evaluator.verdicts(),
                "compared": self.evaluator.compared,
                "inconsistent": self.evaluator.inconsistent,
                "spent": self.spent(),
                "ledger": (*self.state.ledger, self.spent()),
            }
        )
        if self.around.checkpoint is not None:
            self.checkpoint(self.around.checkpoint)
        self._teller.generation_done([line for _, line in made])

    async def _recall(self) -> None:
        """After a resume: have the grades of the known rubrics again, from store or code."""
        if self._recalled:
            return
        self.evaluator.know(self.state.verdicts)
        self.evaluator.compared = self.state.compared
        self.evaluator.inconsistent = self.state.inconsistent
        for unit in self.state.units:
            await recall(self._bench, unit)
        self._recalled = True

    def _units(self) -> tuple[Unit, ...]:
        every = tuple(range(len(self.records)))
        if self.config.scope == "shared":
            return (Unit(unit_id=SHARED, prompts=every),)
        return tuple(Unit(unit_id=self.records[i].prompt_id, prompts=(i,)) for i in every)

    def _active(self) -> list[Unit]:
        """The units that this generation works on: all, or the hardest of a global batch."""
        waiting = [unit for unit in self.state.units if not unit.finished]
        if self.config.scope != "global_batch":
            return waiting

        def ease(unit: Unit) -> tuple[float, str]:
            rubrics = [m.rubric for m in unit.members]
            hard = self.evaluator.hardness(rubrics, unit.best.rubric, unit.prompts[0])
            return -hard, unit.unit_id

        return sorted(waiting, key=ease)[: self.config.batch_size]

    def spent(self) -> Spent:
        """What this session and those before it have spent."""
        if self.roles is None:
            return self._before
        usage, before = self.roles.gateway.usage, self._before
        return Spent(
            calls=before.calls + usage.calls,
            cached=before.cached + usage.cached,
            prompt_tokens=before.prompt_tokens + usage.prompt_tokens,
            completion_tokens=before.completion_tokens + usage.completion_tokens,
            usd=known_usd(before.usd, usage.usd),
        )


async def _together(steps: Sequence[Any]) -> list[tuple[Unit, Round]]:
    """All steps; the first error is raised when none is running any more."""
    answers = await asyncio.gather(*steps, return_exceptions=True)
    made: list[tuple[Unit, Round]] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        made.append(answer)
    return made


def search_rubrics(
    dataset: Sequence[RankedPrompt],
    config: SearchConfig,
    *,
    seed: int = 7,
    around: Surroundings | None = None,
) -> SearchResult:
    """Run a search to its end, resuming from ``around.checkpoint`` if it is there."""
    around = around or Surroundings()
    session = (
        SearchSession.resume(dataset, config, around.checkpoint, seed=seed, around=around)
        if around.checkpoint is not None and around.checkpoint.is_file()
        else SearchSession.create(dataset, config, seed=seed, around=around)
    )
    try:
        return session.run()
    finally:
        session.close()
