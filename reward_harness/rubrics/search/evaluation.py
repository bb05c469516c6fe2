"""Evaluating rubrics on prompts: ask for the verdicts that are missing, then compute on arrays.

What is asked in a round depends only on the round's rubrics and on earlier rounds, never on which
answer comes first: so a search gives one result at any concurrency. A failed verdict is queued
again at the end of the round, a few times; what still lacks one is set aside and
counted, nothing is ranked on it. Where a budget ends, what was paid for has been stored already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeVar

import numpy as np

from reward_harness.errors import DataError, LLMError
from reward_harness.llm.roles import Compared
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.grading import Grader
from reward_harness.rubrics.objective import (
    Array,
    TailScore,
    Weights,
    pair_agreement,
    tail_of,
    tail_score,
    top_margin,
)
from reward_harness.rubrics.search.matrix import GradeMatrix
from reward_harness.rubrics.search.problem import SearchPrompt
from reward_harness.rubrics.search.racing import Cells, candidate_order
from reward_harness.rubrics.search.rounds import Tally, ask_round
from reward_harness.rubrics.types import Criterion, Rubric

Key = TypeVar("Key")
CRITERIA_A_REQUEST = 12
MAX_UNSCORED_SHARE = 0.2
"""A rubric with more unscored responses than this is set aside."""


class Judge(Protocol):
    """Says which of two responses is better, asked in both orders."""

    async def compare(self, prompt: str, left: str, right: str, vote: int = 0) -> Compared | Failed:
        """1 left, -1 right, 0 neither or inconsistent."""
        ...


class GradingJudge(Grader, Judge, Protocol):
    """What an endpoint offers to an evaluation."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One rubric on a set of prompts. ``score`` is None where it had to be set aside."""

    score: float | None
    tail_acc: float
    tail_var: float
    diverse_tail_acc: float
    agreement: float | None
    unscored: int


class Evaluator:
    """Grades, verdicts and objectives of any rubric on a fixed list of prompts."""

    def __init__(
        self,
        prompts: Sequence[SearchPrompt],
        weights: Weights,
        asked: GradingJudge | None = None,
        seed: int = 0,
    ) -> None:
        self.prompts = list(prompts)
        self.weights = weights
        self._asked = asked
        self.judged = [p.judged.copy() for p in prompts]
        self._scores: dict[str, Array] = {}
        self.inconsistent = 0
        self.compared = 0
        self.tally = Tally()
        texts = [p.text for p in prompts for _ in p.responses]
        self.matrix = GradeMatrix(texts, [r for p in prompts for r in p.responses])
        ends = np.cumsum([len(p.responses) for p in prompts])
        starts = [0, *ends[:-1].tolist()]
        self.columns = [range(a, int(b)) for a, b in zip(starts, ends, strict=True)]
        self._orders = [candidate_order(len(p.responses), seed, p.prompt_id) for p in prompts]

    async def prepare(
        self,
        rubrics: Sequence[Rubric],
        prompts: Sequence[int] | Cells,
        *,
        pairs: Literal["tails", "all"] | int = "tails",
    ) -> None:
        """Ask for every grade, then for every judged pair, that evaluating ``rubrics`` needs.

        Pairs are those of the rubrics' tails, all, or a seeded choice of so many a prompt.
        ``LLMError`` where the endpoint refuses, ``BudgetExceeded`` where a cap ends it.
        """
        cells = _cells(prompts)
        await self.grade(rubrics, cells)
        wanted = [
            (index, a, b)
            for index in cells.prompts
            for a, b in self._pairs(rubrics, index, cells, pairs)
        ]
        await self.judge(wanted)

    async def judge(self, pairs: Sequence[tuple[int, int, int]]) -> None:
        """Have (prompt, response, response) judged where that is not known yet."""
        missing = [p for p in dict.fromkeys(pairs) if np.isnan(self.judged[p[0]][p[1], p[2]])]
        await _ask_all(missing, self._compare_one, self.tally)

    def _pairs(
        self,
        rubrics: Sequence[Rubric],
        index: int,
        cells: Cells,
        pairs: Literal["tails", "all"] | int,
    ) -> list[tuple[int, int]]:
        """Pairs (a < b) of one prompt to be judged; a number of them is spread over responses."""
        if pairs == "tails":
            return self._tail_pairs(rubrics, index, cells)
        used = self._used(index, cells)
        spread = [
            (used[i], used[i + gap]) for gap in range(1, len(used)) for i in range(len(used) - gap)
        ]
        return [(min(p), max(p)) for p in (spread if pairs == "all" else spread[:pairs])]

    def _used(self, index: int, cells: Cells) -> list[int]:
        """The responses of a prompt that ``cells`` takes, in the seeded order."""
        return list(self._orders[index][: cells.candidates])

    def verdicts(self) -> tuple[tuple[int, int, int, int], ...]:
        """All pairs that a model judged so far: (prompt, response, response, preference)."""
        found: list[tuple[int, int, int, int]] = []
        for index, (prompt, judged) in enumerate(zip(self.prompts, self.judged, strict=True)):
            if not prompt.labelled:
                pairs = np.argwhere(np.triu(~np.isnan(judged), k=1)).tolist()
                found += [(index, a, b, int(judged[a, b])) for a, b in pairs]
        return tuple(found)

    def know(self, verdicts: Iterable[tuple[int, int, int, int]]) -> None:
        """Take over verdicts of an earlier session."""
        for index, a, b, preference in verdicts:
            self.judged[index][a, b] = preference
            self.judged[index][b, a] = -preference

    def scores(self, rubric: Rubric, prompt: int, cells: Cells | None = None) -> Array:
        """Scores of one prompt's responses; NaN for those not graded or not in ``cells``."""
        every = self._scores.get(rubric.digest)
        if every is None:
            everywhere = range(len(self.matrix.responses))
            every = self._scores[rubric.digest] = self.matrix.scores(rubric, everywhere)
        scores = every[self.columns[prompt].start : self.columns[prompt].stop]
        if cells is None or cells.candidates is None:
            return scores
        kept = np.full_like(scores, np.nan)
        used = self._used(prompt, cells)
        kept[used] = scores[used]
        return kept

    def evaluate(self, rubric: Rubric, prompts: Sequence[int] | Cells) -> Evaluation:
        """The objective averaged over ``prompts``; call ``prepare`` first."""
        cells = _cells(prompts)
        tails: list[TailScore] = []
        outcomes: list[float] = []
        unscored = total = 0
        for index in cells.prompts:
            scores = self.scores(rubric, index, cells)
            scored = int(np.count_nonzero(~np.isnan(scores)))
            total += len(self._used(index, cells))
            unscored += len(self._used(index, cells)) - scored
            if scored < 2:
                continue
            votes = self.matrix.vote_scores(rubric, self.columns[index])
            sources = self.prompts[index].sources
            tails.append(tail_score(scores, self.judged[index], sources, self.weights, votes))
            outcomes += pair_agreement(scores, self.judged[index])
        aside = not tails or unscored > MAX_UNSCORED_SHARE * total
        return Evaluation(
            score=None if aside else _mean([t.score for t in tails]),
            tail_acc=_mean([t.tail_acc for t in tails]),
            tail_var=_mean([t.tail_var for t in tails]),
            diverse_tail_acc=_mean([t.diverse_tail_acc for t in tails]),
            agreement=_mean(outcomes) if outcomes else None,
            unscored=unscored,
        )

    def outcomes(self, rubric: Rubric, prompts: Sequence[int]) -> dict[int, list[float]]:
        """Right (1), tied (½) or wrong (0) for each judged pair, by prompt."""
        return {i: pair_agreement(self.scores(rubric, i), self.judged[i]) for i in prompts}

    def differences(self, rubric: Rubric, prompts: Sequence[int] | Cells) -> Array:
        """Contribution differences (P, C), preferred minus other, of judged and graded pairs."""
        cells = _cells(prompts)
        rows: list[Array] = []
        for index in cells.prompts:
            columns = self.columns[index]
            graded = self.matrix.contributions(rubric, columns)
            usable = np.zeros(len(columns), dtype=bool)
            usable[self._used(index, cells)] = True
            usable &= self.matrix.known(rubric, columns)
            better = (self.judged[index] == 1) & usable[:, None] & usable[None, :]
            preferred, other = np.nonzero(better)
            rows.append((graded[:, preferred] - graded[:, other]).T)
        return np.concatenate(rows) if rows else np.zeros((0, len(rubric.criteria)))

    def hardness(self, rubrics: Sequence[Rubric], rubric: Rubric, prompt: int) -> float:
        """1/(1 + top margin) + 2·(1 − share of the population that agrees on the top response)."""
        tops = [_top(self.scores(r, prompt)) for r in rubrics]
        modal = max(tops.count(top) for top in set(tops)) / len(tops) if tops else 1.0
        return 1 / (1 + top_margin(self.scores(rubric, prompt))) + 2 * (1 - modal)

    def _tail_pairs(
        self, rubrics: Sequence[Rubric], prompt: int, cells: Cells
    ) -> list[tuple[int, int]]:
        found: dict[tuple[int, int], None] = {}
        for rubric in rubrics:
            tail = tail_of(self.scores(rubric, prompt, cells), self.weights.tail_fraction)
            pairs = ((a, b) for i, a in enumerate(tail) for b in tail[i + 1 :])
            found.update(((min(p), max(p)), None) for p in pairs)
        return list(found)

    async def grade(self, rubrics: Sequence[Rubric], prompts: Sequence[int] | Cells) -> None:
        """One request for each response, vote and dozen of criteria that are not graded yet."""
        cells = _cells(prompts)
        criteria = {
            (c.grading_digest, r.votes): (c, r)
            for r in rubrics
            for c in r.criteria
            if c.check is None
        }
        for rubric in rubrics:
            for criterion in rubric.criteria:
                self.matrix.row(criterion, rubric.votes)
        missing: dict[tuple[int, int], list[tuple[Criterion, Rubric]]] = {}
        for _, (criterion, rubric) in sorted(criteria.items()):
            known = self.matrix.row(criterion, rubric.votes).known
            for index in cells.prompts:
                for column in (self.columns[index].start + r for r in self._used(index, cells)):
                    for vote in np.nonzero(~known[:, column])[0]:
                        missing.setdefault((column, int(vote)), []).append((criterion, rubric))
        jobs = [
            (column, vote, tuple(wanted[start : start + CRITERIA_A_REQUEST]))
            for (column, vote), wanted in missing.items()
            for start in range(0, len(wanted), CRITERIA_A_REQUEST)
        ]
        if jobs:
            self._scores.clear()
            await _ask_all(jobs, self._grade_one, self.tally)

    async def _grade_one(
        self, job: tuple[int, int, tuple[tuple[Criterion, Rubric], ...]]
    ) -> Failed | None:
        column, vote, wanted = job
        renamed = [
            c.model_copy(update={"criterion_id": f"g{i}"}) for i, (c, _) in enumerate(wanted)
        ]
        answer = await self._endpoint().grade(
            self.matrix.prompts[column],
            self.matrix.responses[column],
            renamed,
            wanted[0][1].scale,
            vote,
        )
        if isinstance(answer, Failed):
            return answer
        for i, (criterion, rubric) in enumerate(wanted):
            row, grade = self.matrix.row(criterion, rubric.votes), answer[f"g{i}"]
            row.values[vote, column] = np.nan if grade is None else grade
            row.known[vote, column] = True
        return None

    async def _compare_one(self, pair: tuple[int, int, int]) -> Failed | None:
        index, a, b = pair
        prompt = self.prompts[index]
        verdict = await self._endpoint().compare(
            prompt.text, prompt.responses[a], prompt.responses[b]
        )
        if isinstance(verdict, Failed):
            return verdict
        self.know([(index, a, b, verdict.preference)])
        self.compared += 1
        self.inconsistent += not verdict.consistent
        return None

    def _endpoint(self) -> GradingJudge:
        if self._asked is None:
            raise DataError("model-graded criteria or unlabelled pairs need an endpoint")
        return self._asked


async def _ask_all(
    jobs: Sequence[Key], ask: Callable[[Key], Awaitable[Failed | None]], tally: Tally
) -> None:
    """Ask all jobs; ``LLMError`` if not one of them could be answered."""
    answers = await ask_round([partial(ask, job) for job in jobs], tally)
    failed = [a for a in answers if isinstance(a, Failed)]
    if len(failed) == len(jobs) > 0:
        raise LLMError(f"no verdict of {len(jobs)} could be had: {failed[0].error}")


def _cells(prompts: Sequence[int] | Cells) -> Cells:
    return prompts if isinstance(prompts, Cells) else Cells(tuple(prompts))


def _top(scores: Array) -> int:
    return int(np.nanargmax(scores)) if not np.isnan(scores).all() else -1


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.5
