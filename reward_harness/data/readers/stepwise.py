"""Readers of solutions with labelled steps: PRM800K (original and decoded), BIG-Bench-Mistake, and
GSM8K with a planted mistake.

PRM800K: arXiv 2305.20050. BIG-Bench-Mistake: arXiv 2311.08516. GSM8K: arXiv 2110.14168. Labels: 1
right, 0 neutral, -1 wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from pydantic import ValidationError

from reward_harness.data.files import validated
from reward_harness.data.perturbation import slipped, without_marks
from reward_harness.data.readers.rows import (
    Read,
    Reader,
    Row,
    Rows,
    numbered,
    reader_of,
    record_problem,
    user,
)
from reward_harness.data.readers.supervised import GSM8KRow, gsm8k_answer
from reward_harness.data.records import StepwiseExample
from reward_harness.errors import DataError
from reward_harness.hashing import derive_seed

Label = Literal[1, 0, -1]


class DecodedRow(Row):
    """PRM800K recovered from token ids: one label a step."""

    problem: str
    steps: list[str]
    labels: list[Label]


def decoded_example(row: DecodedRow, example_id: str, source: str) -> StepwiseExample:
    """The row as it is."""
    return StepwiseExample(
        example_id=example_id,
        prompt=user(row.problem),
        steps=row.steps,
        labels=row.labels,
        source=source,
    )


class Question(Row):
    """The MATH problem of a PRM800K row."""

    problem: str


class Completion(Row):
    """A step that a model proposed or a labeller wrote; only proposals are rated."""

    text: str
    rating: Label | None = None


class LabelledStep(Row):
    """All proposals for one step, and which one the solution went on from."""

    completions: list[Completion]
    human_completion: Completion | None = None
    chosen_completion: int | None = None


class Labelling(Row):
    """The labelled steps in order."""

    steps: list[LabelledStep]


class PRM800KRow(Row):
    """One labelled solution in the published schema."""

    question: Question
    label: Labelling


def prm800k_example(row: PRM800KRow, example_id: str, source: str) -> StepwiseExample:
    """The path the labeller took.

    A step is the chosen proposal, else the one that the labeller wrote, which counts as right. A
    step with neither ends the path with its first rated proposal: there the solution went wrong or
    was given up. Proposals beside the path are not part of it.
    """
    steps: list[str] = []
    labels: list[Label] = []
    for number, step in enumerate(row.label.steps, start=1):
        taken = _taken(step, number)
        if taken is None:
            break
        steps.append(taken[0])
        labels.append(taken[1])
        if step.chosen_completion is None and step.human_completion is None:
            break
    if not steps:
        raise DataError("no step of the solution is rated", expected="a rating of 1, 0 or -1")
    return StepwiseExample(
        example_id=example_id,
        prompt=user(row.question.problem),
        steps=steps,
        labels=labels,
        source=source,
    )


def _taken(step: LabelledStep, number: int) -> tuple[str, Label] | None:
    if step.chosen_completion is not None:
        if not 0 <= step.chosen_completion < len(step.completions):
            raise DataError(
                f"chosen_completion of step {number} names no completion",
                got=step.chosen_completion,
                expected=f"0 to {len(step.completions) - 1}",
            )
        chosen = step.completions[step.chosen_completion]
        return None if chosen.rating is None else (chosen.text, chosen.rating)
    if step.human_completion is not None:
        return step.human_completion.text, 1
    return next(((c.text, c.rating) for c in step.completions if c.rating is not None), None)


class MistakeRow(Row):
    """A chain of thought and the index of its first wrong step, None if all are right."""

    task: str
    input: str
    steps: list[str]
    mistake_index: int | None


def mistake_example(row: MistakeRow, example_id: str, source: str) -> StepwiseExample:
    """Steps up to the first mistake: nobody labelled what follows it. ``source`` is the task."""
    if row.mistake_index is not None and not 0 <= row.mistake_index < len(row.steps):
        raise DataError(
            "mistake_index names no step",
            got=row.mistake_index,
            expected=f"0 to {len(row.steps) - 1}",
        )
    kept = row.steps if row.mistake_index is None else row.steps[: row.mistake_index + 1]
    labels: list[Label] = [1] * len(kept)
    if row.mistake_index is not None:
        labels[-1] = -1
    return StepwiseExample(
        example_id=example_id, prompt=user(row.input), steps=kept, labels=labels, source=row.task
    )


def planted_examples(row: GSM8KRow, example_id: str, source: str) -> list[StepwiseExample]:
    """The worked solution, all right, and the same with one planted mistake where
    ``data.perturbation`` is certain of it.

    The slipped step is wrong, and steps that compute rightly with its number are neutral. The line
    ``#### N`` is left out: a step of its own kind that is wrong in every wrong solution would teach
    a model to know it by its looks.
    """
    answer = gsm8k_answer(row.answer)
    told = row.answer[: row.answer.rindex("####")]
    lines = [line for line in told.splitlines() if line.strip()]
    right: list[Label] = [1] * len(lines)
    found = [("right", [without_marks(line) for line in lines], right)]
    rng = random.Random(derive_seed(0, "planted mistake", row.question))
    wrong = slipped(row.question, lines, answer, rng)
    if wrong is not None:
        labels: list[Label] = [0 if index in wrong.carried else 1 for index in range(len(lines))]
        labels[wrong.wrong] = -1
        found.append(("wrong", list(wrong.lines), labels))
    return [
        StepwiseExample(
            example_id=f"{example_id}-{kind}",
            prompt=user(row.question),
            steps=steps,
            labels=labels,
            source=source,
        )
        for kind, steps, labels in found
    ]


def _read_planted(rows: Rows, name: str) -> Iterator[Read]:
    for line, value in rows:
        try:
            row = validated(GSM8KRow, value, None)
            found = planted_examples(row, numbered(name, line), name)
        except DataError as problem:
            yield line, problem
        except ValidationError as error:
            yield line, record_problem(error)
        else:
            yield from ((line, example) for example in found)


PRM800K = reader_of(StepwiseExample, PRM800KRow, prm800k_example)
PRM800K_DECODED = reader_of(StepwiseExample, DecodedRow, decoded_example)
BIG_BENCH_MISTAKE = reader_of(StepwiseExample, MistakeRow, mistake_example)
GSM8K_STEPS = Reader(StepwiseExample, _read_planted)
