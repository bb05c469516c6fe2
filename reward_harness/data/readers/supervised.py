"""Readers of instructions and worked problems: alpaca rows, GSM8K as solutions or as problems.

GSM8K (arXiv 2110.14168): an answer ends in ``#### N``; calculator marks ``<<48/2=24>>`` inside it
are annotations for a tool, not text, and are taken out.
"""

from __future__ import annotations

import re

from reward_harness.data.readers.rows import Row, reader_of, user
from reward_harness.data.records import RLPrompt, SFTExample
from reward_harness.errors import DataError

CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
FINAL_ANSWER = re.compile(r"####\s*(\S.*?)\s*$")


class AlpacaRow(Row):
    """An instruction, an optional input that it speaks about, and the answer."""

    instruction: str
    input: str = ""
    output: str


def alpaca_example(row: AlpacaRow, example_id: str, source: str) -> SFTExample:
    """Instruction and input, one blank line apart, make the prompt."""
    prompt = f"{row.instruction}\n\n{row.input}" if row.input.strip() else row.instruction
    return SFTExample(
        example_id=example_id, prompt=user(prompt), response=row.output, source=source
    )


class GSM8KRow(Row):
    """A word problem and its worked solution."""

    question: str
    answer: str


def gsm8k_answer(solution: str) -> str:
    """The number after ``####``, without thousands separators; ``DataError`` if there is none."""
    found = FINAL_ANSWER.search(solution)
    if found is None:
        raise DataError(
            "field 'answer' names no result", got=solution[-60:], expected="'#### N' at its end"
        )
    return found[1].replace(",", "")


def gsm8k_solution(row: GSM8KRow, example_id: str, source: str) -> SFTExample:
    """The solution without calculator marks.

    It still ends in ``#### N``, which a checker can read.
    """
    gsm8k_answer(row.answer)
    response = CALCULATOR_MARK.sub("", row.answer)
    return SFTExample(
        example_id=example_id, prompt=user(row.question), response=response, source=source
    )


def gsm8k_problem(row: GSM8KRow, prompt_id: str, source: str) -> RLPrompt:
    """The problem with its checkable result."""
    return RLPrompt(
        prompt_id=prompt_id,
        prompt=user(row.question),
        answer=gsm8k_answer(row.answer),
        source=source,
    )


ALPACA = reader_of(SFTExample, AlpacaRow, alpaca_example)
GSM8K_SOLUTIONS = reader_of(SFTExample, GSM8KRow, gsm8k_solution)
GSM8K_PROBLEMS = reader_of(RLPrompt, GSM8KRow, gsm8k_problem)
