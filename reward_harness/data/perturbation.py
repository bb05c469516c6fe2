"""Worked solutions with one slipped result: what a process reward model can be trained on.

GSM8K marks every calculation (``48/2 = <<48/2=24>>24``). One result is replaced by a plausible slip
(off by one, two or ten in its last digit that is not 0, or two digits swapped). A bracket that does
not fit the text around it would be seen without any arithmetic, so the *whole* step is written
anew, every mention of the number included, and the steps that follow are computed again from the
wrong number and written in the same way: the only thing wrong with the solution is the sum that
does not add up.

A slip is taken only where that is certain: it changes the answer; each number that changes stands
for one quantity (it is no number of the question, no constant, no other result, no share that is
also written in percent, and not written as a word) and takes part in marked sums only; new results
are positive and have no more decimals than a price; and every sum that the text shows holds where
the original's held, but for the slipped one.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

MARK = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
NUMBER = re.compile(r"(?<![\w.])(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?![\w]|,?\d)")
WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
CONVENTIONAL = frozenset(map(Fraction, (7, 12, 24, 30, 52, 60, 100, 365, 1000)))
"""Numbers that a solution may use without saying where they come from."""

SUM_BEFORE = re.compile(r"[\d.()+\-*/ ]+$")
NUMBER_AFTER = re.compile(r"^\s*(\d+(?:\.\d+)?|\.\d+)(?![\d.]*\s*[+\-*/(%])")
SMALLEST_UNIT = 100
"""New results are whole numbers of 1/100."""


@dataclass(frozen=True, slots=True)
class Slipped:
    """The lines of a solution with one wrong result, without calculator marks.

    ``carried`` are the later lines that use the wrong number; ``answer``, the number that they lead
    to, is another than the right one.
    """

    lines: tuple[str, ...]
    wrong: int
    carried: frozenset[int]
    answer: str


@dataclass(frozen=True, slots=True)
class Calculation:
    """A calculator mark: its line, its expression, and its value."""

    line: int
    expression: str
    result: Fraction


def slipped(question: str, lines: Sequence[str], answer: str, rng: random.Random) -> Slipped | None:
    """The solution with one result wrong, or None where no slip is certain to be the only defect.

    ``lines`` have their calculator marks, ``answer`` is the number that the solution ends in.
    """
    found = _calculations(lines)
    final = number(answer)
    if not found or final is None or final not in {c.result for c in found}:
        return None
    solution = _Solution(question, lines, found)
    places = list(range(len(found)))
    rng.shuffle(places)
    for place in places:
        slips = _slips(found[place].result)
        rng.shuffle(slips)
        for slip in slips:
            made = solution.with_slip(place, slip, answer)
            if made is not None:
                return made
    return None


def without_marks(line: str) -> str:
    """A line as people read it."""
    return re.sub(r"<<[^<>]*>>", "", line)


def number(text: str) -> Fraction | None:
    """The value of ``1,234.5``; None for anything else."""
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def value_of(expression: str) -> Fraction | None:
    """The exact value of a sum of plain numbers; None for anything else."""
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", expression.replace(",", "")).strip()
    try:
        return _value(ast.parse(plain, mode="eval").body, plain)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _value(node: ast.AST, text: str) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(ast.get_source_segment(text, node) or "")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, text)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, text), _value(node.right, text)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("not a sum of numbers")


def wrong_sums(line: str) -> int:
    """How many of the sums that a line shows (``48/2 = 26``) do not hold."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", line.replace("$", ""))
    text = re.sub(r"(?<=[\d)])\s*[x×]\s*(?=[\d(.])", "*", text)
    parts = text.split("=")
    wrong = 0
    for left, right in pairwise(parts):
        shown, after = SUM_BEFORE.search(left), NUMBER_AFTER.search(right)
        value = value_of(shown[0]) if shown else None
        if value is not None and after is not None:
            wrong += abs(value - Fraction(after[1])) > Fraction(1, SMALLEST_UNIT)
    return wrong


def _calculations(lines: Sequence[str]) -> list[Calculation]:
    """Every mark in order; none at all where one does not hold exactly."""
    found: list[Calculation] = []
    for index, line in enumerate(lines):
        for expression, result in MARK.findall(line):
            value, stated = value_of(expression), number(result.strip())
            if value is None or value != stated:
                return []
            found.append(Calculation(index, expression, value))
    return found


def _slips(right: Fraction) -> list[Fraction]:
    if right <= 0:
        return []
    digits = str(right.numerator)
    short = digits.rstrip("0")
    unit = Fraction(10) ** (len(digits) - len(short)) if right.denominator == 1 else Fraction(1, 10)
    steps = (1, 2, 10) if right > 20 * unit else (1, 2)
    found = [right + sign * step * unit for step in steps for sign in (1, -1)]
    if right.denominator == 1 and len(short) > 1:
        found.append(Fraction(short[:-2] + short[-1] + short[-2]) * unit)
    return [slip for slip in dict.fromkeys(found) if slip > 0 and slip != right]


class _Solution:
    """A solution, and what its numbers stand for."""

    def __init__(self, question: str, lines: Sequence[str], found: Sequence[Calculation]) -> None:
        self.lines, self.found = lines, found
        self.text = " ".join([question, *lines]).lower()
        self.values = {*_values(self.text)}
        self.results = [calculation.result for calculation in found]
        self.fixed = {*CONVENTIONAL, *_values(question)}
        for index, calculation in enumerate(found):
            operands = {*_values(calculation.expression)}
            self.fixed |= operands - {*self.results[:index]}

    def with_slip(self, place: int, slip: Fraction, answer: str) -> Slipped | None:
        """The solution with the result at ``place`` wrong, or None where it is not certain that
        nothing else is.
        """
        changed, final = self._changed(place, slip), number(answer)
        if changed is None or final is None or final not in changed:
            return None
        wrong = self.found[place].line
        lines = [*self.lines[:wrong], *(_rewritten(ln, changed) for ln in self.lines[wrong:])]
        told = [without_marks(line) for line in lines]
        later = range(wrong + 1, len(lines))
        carried = frozenset(index for index in later if lines[index] != self.lines[index])
        if not all(_computes(self.lines[index], changed) for index in carried):
            return None
        before = [wrong_sums(without_marks(line)) for line in self.lines]
        if any(wrong_sums(told[index]) != before[index] for index in later):
            return None
        if wrong_sums(told[wrong]) - before[wrong] not in (0, 1):
            return None
        return Slipped(tuple(told), wrong, carried, _like(answer, changed[final]))

    def _changed(self, place: int, slip: Fraction) -> Mapping[Fraction, Fraction] | None:
        """New by old number: the slip, and each later result that it changes."""
        changed: dict[Fraction, Fraction] = {}
        for index in range(place, len(self.found)):
            old = self.found[index].result
            expression = _rewritten(self.found[index].expression, changed)
            new = slip if index == place else value_of(expression)
            if new is None:
                return None
            if new == old:
                continue
            if not (self._is_one_quantity(old) and self._is_plausible(old, new)):
                return None
            changed[old] = new
        return changed if len(set(changed.values())) == len(changed) else None

    def _is_one_quantity(self, old: Fraction) -> bool:
        if old in self.fixed or self.results.count(old) > 1:
            return False
        if {old / 100, old * 100} & self.values:
            return False  # a share, once in percent
        words = WORDS.split()
        small = old.denominator == 1 and 0 <= old < len(words)
        return not (small and re.search(rf"\b{words[int(old)]}\b", self.text))

    def _is_plausible(self, old: Fraction, new: Fraction) -> bool:
        if new <= 0 or new in self.fixed or new in self.results:
            return False
        return (
            new.denominator == 1 if old.denominator == 1 else (new * SMALLEST_UNIT).denominator == 1
        )


def _computes(line: str, changed: Mapping[Fraction, Fraction]) -> bool:
    """Whether each changed number of a line takes part in a marked sum, or stands there alone: of
    a sum in words, nobody would know the result.
    """
    marked = {value for mark in MARK.findall(line) for value in _values(" = ".join(mark))}
    told = {*_values(without_marks(line))}
    return told <= set(changed) or told & set(changed) <= marked


def _values(text: str) -> Iterator[Fraction]:
    for found in NUMBER.findall(text):
        value = number(found)
        if value is not None:
            yield value


def _rewritten(text: str, changed: Mapping[Fraction, Fraction]) -> str:
    """``text`` with each changed number in its new value, written as the old one was."""

    def new(found: re.Match[str]) -> str:
        value = number(found[0])
        slipped_to = None if value is None else changed.get(value)
        return found[0] if slipped_to is None else _like(found[0], slipped_to)

    return NUMBER.sub(new, text)


def _like(old: str, new: Fraction) -> str:
    """``new`` with the thousands separators and decimals of ``old``."""
    decimals = len(old.partition(".")[2])
    while (new * 10**decimals).denominator != 1:
        decimals += 1
    commas = "," if "," in old or ("." in old and new >= 1000) else ""
    return f"{float(new):{commas}.{decimals}f}"
