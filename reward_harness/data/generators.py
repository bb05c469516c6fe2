"""Generated tasks with checkable results: sums and short chains of them, in several forms.

One problem set gives every record type: prompts with an answer, worked solutions, solutions with a
planted wrong step, pairs right against wrong, ranked candidates. All of them ask the same questions
in the same words, so that a question falls into the same split whatever it is used for. Everything
follows from the parameters; ``ARITHMETIC_VERSION`` is bumped by hand when it would come out
differently.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from reward_harness.data.records import (
    Candidate,
    Message,
    PreferencePair,
    RankedPrompt,
    Record,
    RLPrompt,
    SFTExample,
    StepwiseExample,
)
from reward_harness.errors import DataError
from reward_harness.hashing import derive_seed
from reward_harness.manifest import Frozen

ARITHMETIC_VERSION = "1"
Operation = Literal["plus", "minus", "times"]
Form = Literal["words", "start", "formula", "story"]
SIGNS: dict[Operation, str] = {"plus": "+", "minus": "-", "times": "*"}
PATIENCE = 2000
"""Repeated questions in a row after which there are taken to be no more new ones."""


class ArithmeticParams(Frozen):
    """Size and difficulty of a generated set of sums."""

    count: int = Field(default=200, ge=2, description="different questions")
    seed: int = 0
    largest: int = Field(default=50, ge=5, description="largest number in a question")
    steps: int = Field(default=2, ge=1, le=6, description="operations of the longest question")
    operations: tuple[Operation, ...] = Field(default=("plus", "minus", "times"), min_length=1)
    forms: tuple[Form, ...] = Field(
        default=("words", "start", "formula", "story"),
        min_length=1,
        description="What is 4 plus 7? Start with 4, then add 7. Calculate 4 + 7. Ada has 4.",
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """``numbers[0] op[0] numbers[1] op[1] …``, computed from left to right, and its question."""

    question: str
    numbers: tuple[int, ...]
    operations: tuple[Operation, ...]

    def results(self) -> list[int]:
        """The running result after each operation; the last is the answer."""
        value, found = self.numbers[0], []
        for operation, number in zip(self.operations, self.numbers[1:], strict=True):
            value = _apply(operation, value, number)
            found.append(value)
        return found

    @property
    def answer(self) -> int:
        return self.results()[-1]


def problems(params: ArithmeticParams) -> list[Problem]:
    """``params.count`` different questions; ``DataError`` if the numbers do not allow so many."""
    rng = random.Random(derive_seed(params.seed, "arithmetic problems"))
    found: dict[str, Problem] = {}
    repeated = 0
    while len(found) < params.count and repeated < PATIENCE:
        problem = _problem(params, rng)
        repeated = repeated + 1 if problem.question in found else 0
        found.setdefault(problem.question, problem)
    if len(found) == params.count:
        return list(found.values())
    raise DataError(
        "cannot make so many different questions",
        where="generated.params",
        got=f"count {params.count}",
        expected=f"at most about {len(found)} with these parameters",
        fix="Lower `count`, or raise `largest` or `steps`.",
    )


def _problem(params: ArithmeticParams, rng: random.Random) -> Problem:
    length = rng.randint(1, params.steps)
    operations: tuple[Operation, ...] = tuple(rng.choice(params.operations) for _ in range(length))
    value = rng.randint(2, params.largest)
    numbers = [value]
    for operation in operations:
        numbers.append(_operand(operation, value, params, rng))
        value = _apply(operation, value, numbers[-1])
    return Problem(_question(params, numbers, operations, rng), tuple(numbers), operations)


def _operand(operation: Operation, value: int, params: ArithmeticParams, rng: random.Random) -> int:
    """A number that keeps products small and differences natural."""
    if operation == "times":
        return rng.randint(2, 9)
    if operation == "minus":
        return rng.randint(min(1, value), min(params.largest, value))
    return rng.randint(2, params.largest)


def _apply(operation: Operation, left: int, right: int) -> int:
    return {"plus": left + right, "minus": left - right, "times": left * right}[operation]


def _question(
    params: ArithmeticParams,
    numbers: Sequence[int],
    operations: Sequence[Operation],
    rng: random.Random,
) -> str:
    form = params.forms[rng.randrange(len(params.forms))]
    if form == "words":
        words = " ".join(
            [str(numbers[0]), *(f"{o} {n}" for o, n in zip(operations, numbers[1:], strict=True))]
        )
        order = ", working from left to right" if len(operations) > 1 else ""
        return f"What is {words}{order}?"
    if form == "start":
        phrases = {"plus": "add {n}", "minus": "take away {n}", "times": "multiply by {n}"}
        steps = [phrases[o].format(n=n) for o, n in zip(operations, numbers[1:], strict=True)]
        return f"Start with {numbers[0]}, then {', then '.join(steps)}. What do you get?"
    if form == "formula":
        text = str(numbers[0])
        for operation, number in zip(operations, numbers[1:], strict=True):
            text = f"({text} {SIGNS[operation]} {number})"
        return f"Calculate {text[1:-1]}."
    return _story(numbers, operations, rng)


def _story(numbers: Sequence[int], operations: Sequence[Operation], rng: random.Random) -> str:
    who = rng.choice(("Ada", "Ben", "Chidi", "Dana", "Emil", "Fatima"))
    what = rng.choice(("marbles", "stamps", "apples", "cards", "shells"))
    phrases = {
        "plus": "{who} gets {n} more.",
        "minus": "{who} gives {n} away.",
        "times": "Then the number of {what} grows {n}-fold.",
    }
    told = [
        phrases[o].format(who=who, what=what, n=n)
        for o, n in zip(operations, numbers[1:], strict=True)
    ]
    return f"{who} has {numbers[0]} {what}. {' '.join(told)} How many {what} does {who} have now?"


def right_steps(problem: Problem) -> list[str]:
    """The worked solution: one line an operation, then the answer."""
    steps, value = [], problem.numbers[0]
    for operation, number in zip(problem.operations, problem.numbers[1:], strict=True):
        steps.append(_step(value, operation, number, _apply(operation, value, number)))
        value = _apply(operation, value, number)
    return [*steps, _conclusion(value)]


def wrong_steps(problem: Problem, rng: random.Random) -> tuple[list[str], list[Literal[1, 0, -1]]]:
    """A solution with one planted wrong step, and its labels.

    The whole step is written anew (a slipped result, or the wrong operation carried out), and what
    follows goes on from it: correct work on a wrong number is 0, the answer it leads to is -1. Each
    operation is injective in the running value, so no later step can undo the mistake.
    """
    planted = rng.randrange(len(problem.operations))
    steps: list[str] = []
    labels: list[Literal[1, 0, -1]] = []
    value, right = problem.numbers[0], problem.results()
    for position, (operation, number) in enumerate(
        zip(problem.operations, problem.numbers[1:], strict=True)
    ):
        if position == planted:
            operation, result = _blunder(operation, value, number, right[position], rng)
            labels.append(-1)
        else:
            result = _apply(operation, value, number)
            labels.append(1 if position < planted else 0)
        steps.append(_step(value, operation, number, result))
        value = result
    return [*steps, _conclusion(value)], [*labels, -1]


def _blunder(
    operation: Operation, value: int, number: int, right: int, rng: random.Random
) -> tuple[Operation, int]:
    others: list[Operation] = [
        o for o in SIGNS if o != operation and _apply(o, value, number) != right
    ]
    if others and rng.random() < 0.5:
        mistaken = rng.choice(others)
        return mistaken, _apply(mistaken, value, number)
    return operation, right + rng.choice((-10, -2, -1, 1, 2, 10))


def _step(left: int, operation: Operation, right: int, result: int) -> str:
    return f"{left} {SIGNS[operation]} {right} = {result}."


def _conclusion(value: int) -> str:
    return f"The answer is {value}."


def _id(number: int) -> str:
    return f"sum-{number:05d}"


def _ask(problem: Problem) -> list[Message]:
    return [Message(role="user", content=problem.question)]


def _wrong(
    problem: Problem, number: int, params: ArithmeticParams
) -> tuple[list[str], list[Literal[1, 0, -1]]]:
    """The one wrong solution of a problem, the same in every record type."""
    return wrong_steps(problem, random.Random(derive_seed(params.seed, "wrong step", number)))


def _rl_prompts(params: ArithmeticParams) -> list[Record]:
    return [
        RLPrompt(prompt_id=_id(i), prompt=_ask(p), answer=str(p.answer), source="arithmetic")
        for i, p in enumerate(problems(params), start=1)
    ]


def _sft_examples(params: ArithmeticParams) -> list[Record]:
    return [
        SFTExample(
            example_id=_id(i),
            prompt=_ask(p),
            response="\n".join(right_steps(p)),
            source="arithmetic",
        )
        for i, p in enumerate(problems(params), start=1)
    ]


def _stepwise_examples(params: ArithmeticParams) -> list[Record]:
    """A right and a wrong solution of each problem."""
    found: list[Record] = []
    for i, problem in enumerate(problems(params), start=1):
        steps = right_steps(problem)
        wrong, labels = _wrong(problem, i, params)
        found.append(
            StepwiseExample(
                example_id=f"{_id(i)}-right",
                prompt=_ask(problem),
                steps=steps,
                labels=[1] * len(steps),
                source="arithmetic",
            )
        )
        found.append(
            StepwiseExample(
                example_id=f"{_id(i)}-wrong",
                prompt=_ask(problem),
                steps=wrong,
                labels=labels,
                source="arithmetic",
            )
        )
    return found


def _preference_pairs(params: ArithmeticParams) -> list[Record]:
    return [
        PreferencePair(
            pair_id=_id(i),
            prompt=_ask(p),
            chosen="\n".join(right_steps(p)),
            rejected="\n".join(_wrong(p, i, params)[0]),
            source="arithmetic",
        )
        for i, p in enumerate(problems(params), start=1)
    ]


def _ranked_prompts(params: ArithmeticParams) -> list[Record]:
    """Four candidates, best first by rank but not by position: worked, bare, wrong, evasive."""
    found: list[Record] = []
    for i, problem in enumerate(problems(params), start=1):
        texts = (
            ("worked", "\n".join(right_steps(problem)), 1.0),
            ("bare", _conclusion(problem.answer), 0.7),
            ("wrong", "\n".join(_wrong(problem, i, params)[0]), 0.2),
            ("evasive", "That depends on what you need the number for.", 0.0),
        )
        ranked = [(rank, *one) for rank, one in enumerate(texts, start=1)]
        random.Random(derive_seed(params.seed, "candidate order", i)).shuffle(ranked)
        candidates = [
            Candidate(
                candidate_id=f"{_id(i)}-{n}", text=text, source=source, rank=rank, quality=quality
            )
            for n, (rank, source, text, quality) in enumerate(ranked, start=1)
        ]
        found.append(RankedPrompt(prompt_id=_id(i), prompt=_ask(problem), candidates=candidates))
    return found


ARITHMETIC: dict[type[Record], Callable[[ArithmeticParams], list[Record]]] = {
    RLPrompt: _rl_prompts,
    SFTExample: _sft_examples,
    StepwiseExample: _stepwise_examples,
    PreferencePair: _preference_pairs,
    RankedPrompt: _ranked_prompts,
}


@dataclass(frozen=True, slots=True)
class Generator:
    """A function for each record type, the model of its parameters, the version of the result."""

    params: type[ArithmeticParams]
    makes: dict[type[Record], Callable[[Any], list[Record]]]
    version: str


GENERATORS: dict[str, Generator] = {
    "arithmetic": Generator(ArithmeticParams, ARITHMETIC, ARITHMETIC_VERSION),
}
