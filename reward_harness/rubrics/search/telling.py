"""What a search says of itself while it runs: an event after every generation, and a few a second
within one, so that a slow endpoint is seen to work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from reward_harness.progress import Progress, ProgressSink
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.evolution import rounds_of
from reward_harness.rubrics.search.rounds import Tally
from reward_harness.rubrics.search.state import Round, SearchState, Spent
from reward_harness.rubrics.search.surroundings import Surroundings
from reward_harness.sections import SearchConfig

EVERY_S = 0.25
FIRST = "first population"


class Searching(Protocol):
    """What a teller looks at: a session."""

    config: SearchConfig
    around: Surroundings
    state: SearchState
    evaluator: Evaluator

    def spent(self) -> Spent:
        """What was spent so far."""
        ...


class Teller:
    """Sends a session's progress to a sink.

    ``share`` in an event is the part of all rounds that is done, with the first population as one;
    ``answered`` of ``asked`` are the questions of the round under way. Both estimate: a search
    may stop early, and a round's later questions follow from its first answers; ``share`` never
    falls.
    """

    def __init__(
        self, session: Searching, sink: ProgressSink, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._session, self._sink, self._clock = session, sink, clock
        self._told_s = clock()
        self._best: dict[str, float] = {}
        self._share = 0.0
        self.phase: str | None = None

    def watch(self, tally: Tally, phase: str) -> None:
        """Tell of questions after the search, which ``phase`` names."""
        self.phase, tally.changed = phase, lambda: self.answered(tally)

    def generation_done(self, lines: Sequence[Round]) -> None:
        """Tell of a complete generation."""
        scores = [line.best for line in lines if line.best is not None]
        agreements = [line.agreement for line in lines if line.agreement is not None]
        for name, values in (("score", scores), ("agreement", agreements)):
            if values:
                self._best[name] = sum(values) / len(values)
        done = self._session.state.generation
        self._told_s = self._clock()
        self._tell(done - 1, f"generation {done - 1} of {self._rounds}", done, None)

    def answered(self, tally: Tally | None = None) -> None:
        """Tell of an answer, unless something was told a moment ago."""
        if self._clock() - self._told_s < EVERY_S:
            return
        self._told_s = self._clock()
        tally = tally or self._session.evaluator.tally
        under_way = self._session.state.generation
        message = FIRST if under_way == 0 else f"generation {under_way} of {self._rounds}"
        done = under_way + (tally.answered / tally.asked if tally.asked else 0.0)
        self._tell(max(under_way - 1, 0), self.phase or message, done, tally)

    @property
    def _rounds(self) -> int:
        return rounds_of(self._session.config)

    def _tell(self, step: int, message: str, done: float, tally: Tally | None) -> None:
        spent = self._session.spent()
        numbers = {**self._best, "calls": float(spent.calls), "cached": float(spent.cached)}
        if spent.usd is not None:
            numbers["usd"] = spent.usd
        if tally is not None:
            numbers |= {"answered": float(tally.answered), "asked": float(tally.asked)}
        self._share = max(self._share, min(done / (self._rounds + 1), 1.0))
        numbers["share"] = self._share
        stage = self._session.around.stage
        self._sink(Progress(stage, step, self._rounds, message, numbers))
