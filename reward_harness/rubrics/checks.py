"""Programmatic checks: what code can grade without asking a model.

The registry is closed: ``Check`` is the union below, told apart by ``type``, and each member
documents its parameters. ``grade(prompt, response)`` is pure and says in [0, 1] how far the
response *shows* what the check names; a fault (refusal, repetition, filler …) is therefore used
with polarity -1. To add one: a class here with a ``Literal`` type and a ``grade``, its name in
``Check``, a row in docs/rubric-search.md.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from functools import cache
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from reward_harness.manifest import Frozen
from reward_harness.rubrics import wording

REGEX_FLAGS = {True: re.MULTILINE | re.IGNORECASE, False: re.MULTILINE}
MAX_REGEX_CHARS = 20_000


def _share(count: float, full: float) -> float:
    """``count`` of ``full``, at most 1."""
    return min(count / full, 1.0) if full > 0 else 1.0


class WordCount(Frozen):
    """Between ``min_words`` and ``max_words`` words; the grade falls linearly to 0 at ``slack``
    times the bound beyond.
    """

    type: Literal["word_count"] = "word_count"
    min_words: int = Field(default=0, ge=0)
    max_words: int | None = Field(default=None, ge=1)
    slack: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> WordCount:
        if self.max_words is not None and self.max_words < self.min_words:
            raise ValueError("max_words is below min_words")
        return self

    def grade(self, prompt: str, response: str) -> float:
        n = len(wording.words(response))
        if n < self.min_words:
            return max(0.0, 1 - (self.min_words - n) / (self.min_words * min(self.slack, 1.0)))
        if self.max_words is not None and n > self.max_words:
            return max(0.0, 1 - (n - self.max_words) / (self.max_words * self.slack))
        return 1.0


class StatedLimit(Frozen):
    """Keeps a length that the prompt states ("under 60 words", "in three sentences"); 1 where it
    states none.
    """

    type: Literal["stated_limit"] = "stated_limit"

    def grade(self, prompt: str, response: str) -> float:
        limits = wording.stated_limits(prompt)
        counts = {
            "word": len(wording.words(response)),
            "sentence": wording.sentence_count(response),
        }
        over = [max(0.0, counts[unit] / limit - 1) for limit, unit in limits]
        return max(0.0, 1 - 2 * max(over, default=0.0))


class Structure(Frozen):
    """Has at least ``min_items`` list items, headings, paragraphs, code blocks or table rows.

    A paragraph counts only if it brings content of its own, a fenced block only if it looks like
    code: otherwise filler would count.
    """

    type: Literal["structure"] = "structure"
    element: Literal["list", "heading", "paragraph", "code_block", "table"] = "list"
    min_items: int = Field(default=2, ge=1)

    def grade(self, prompt: str, response: str) -> float:
        return _share(self._count(response), self.min_items)

    def _count(self, text: str) -> int:
        match self.element:
            case "list":
                return len(wording.LIST_ITEM.findall(text))
            case "heading":
                return len(wording.HEADING.findall(text))
            case "paragraph":
                return wording.telling_paragraphs(text)
            case "code_block":
                return sum(wording.looks_like_code(code) for _, code in wording.fenced_blocks(text))
            case "table":
                return len(wording.TABLE_ROW.findall(text))


class Specificity(Frozen):
    """Numbers, names, quotations, code: ``cues_per_100`` in 100 words make a full grade."""

    type: Literal["specificity"] = "specificity"
    cues_per_100: float = Field(default=6.0, gt=0)

    def grade(self, prompt: str, response: str) -> float:
        cues = sum(
            len(pattern.findall(response))
            for pattern in (wording.NUMBER, wording.PROPER_NAME, wording.QUOTED)
        )
        return _density(cues, response, self.cues_per_100)


def _density(count: int, text: str, per_100: float) -> float:
    """Count in a hundred words against ``per_100``; texts under 20 words count as 20."""
    return _share(100 * count / max(len(wording.words(text)), 20), per_100)


class CueWords(Frozen):
    """Words of one kind: ``vague`` hedges, ``filler`` politeness, ``explanation`` connectives,
    ``absolute`` claims.
    """

    type: Literal["cue_words"] = "cue_words"
    cue: Literal["vague", "filler", "explanation", "absolute"]
    cues_per_100: float = Field(default=5.0, gt=0)

    def grade(self, prompt: str, response: str) -> float:
        return _density(len(_CUES[self.cue].findall(response)), response, self.cues_per_100)


_CUES = {
    "vague": wording.VAGUE,
    "filler": wording.FILLER,
    "explanation": wording.EXPLANATION,
    "absolute": wording.ABSOLUTE,
}


class Refusal(Frozen):
    """Declines to help."""

    type: Literal["refusal"] = "refusal"

    def grade(self, prompt: str, response: str) -> float:
        return float(bool(wording.REFUSAL.search(response)))


class HollowOpener(Frozen):
    """Starts with praise or an announcement instead of the answer."""

    type: Literal["hollow_opener"] = "hollow_opener"

    def grade(self, prompt: str, response: str) -> float:
        return float(bool(wording.HOLLOW_OPENER.match(response)))


class Repetition(Frozen):
    """Share of word ``n``-grams that occurred before in the response, ``full_share`` of them making
    a full grade.
    """

    type: Literal["repetition"] = "repetition"
    n: int = Field(default=3, ge=1, le=8)
    full_share: float = Field(default=0.3, gt=0, le=1)

    def grade(self, prompt: str, response: str) -> float:
        found = wording.words(response)
        grams = [found[i : i + self.n] for i in range(len(found) - self.n + 1)]
        if not grams:
            return 0.0
        return _share(1 - len(set(grams)) / len(grams), self.full_share)


class PromptOverlap(Frozen):
    """Share of the prompt's content words that the response takes up, ``full_share`` of them making
    a full grade.
    """

    type: Literal["prompt_overlap"] = "prompt_overlap"
    full_share: float = Field(default=0.4, gt=0, le=1)

    def grade(self, prompt: str, response: str) -> float:
        asked = wording.content_words(prompt)
        taken = len(asked & wording.own_words(prompt, response))
        return _share(taken / len(asked), self.full_share) if asked else 1.0


class NewContent(Frozen):
    """Distinct content words that the prompt did not have: ``full_words`` of them make a full
    grade.
    """

    type: Literal["new_content"] = "new_content"
    full_words: int = Field(default=30, ge=1)

    def grade(self, prompt: str, response: str) -> float:
        new = wording.content_words(response) - wording.content_words(prompt)
        return _share(len(new), self.full_words)


class ContentDensity(Frozen):
    """Distinct content words in 100 words, ``full_per_100`` of them making a full grade."""

    type: Literal["content_density"] = "content_density"
    full_per_100: float = Field(default=60.0, gt=0)

    def grade(self, prompt: str, response: str) -> float:
        return _density(len(wording.content_words(response)), response, self.full_per_100)


class Wordiness(Frozen):
    """Function words in 100 words: the grade rises from 0 at ``low`` to 1 at ``high``."""

    type: Literal["wordiness"] = "wordiness"
    low: float = Field(default=40.0, ge=0)
    high: float = Field(default=65.0, gt=0)

    def grade(self, prompt: str, response: str) -> float:
        found = wording.words(response)
        density = 100 * sum(w in wording.STOP_WORDS for w in found) / max(len(found), 20)
        return _ramp(density, self.low, self.high)


class WordLength(Frozen):
    """Mean letters of a word: the grade rises from 0 at ``low`` to 1 at ``high``."""

    type: Literal["word_length"] = "word_length"
    low: float = Field(default=3.8, ge=0)
    high: float = Field(default=5.4, gt=0)

    def grade(self, prompt: str, response: str) -> float:
        found = wording.words(response)
        return _ramp(sum(map(len, found)) / max(len(found), 1), self.low, self.high)


def _ramp(value: float, low: float, high: float) -> float:
    return min(max((value - low) / max(high - low, 1e-9), 0.0), 1.0)


class GraderAddress(Frozen):
    """Speaks to whoever grades it: orders, praise of itself, ready-made verdicts, role markers."""

    type: Literal["grader_address"] = "grader_address"

    def grade(self, prompt: str, response: str) -> float:
        patterns = (wording.GRADER_ADDRESS, wording.FAKE_VERDICT)
        return float(any(pattern.search(response) for pattern in patterns))


class Regex(Frozen):
    """Matches ``pattern`` at least ``min_count`` times; only the first 20,000 characters are
    searched.
    """

    type: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1, max_length=500)
    ignore_case: bool = True
    min_count: int = Field(default=1, ge=1)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    def grade(self, prompt: str, response: str) -> float:
        compiled, shown = _compiled(self.pattern, self.ignore_case), response[:MAX_REGEX_CHARS]
        if self.min_count == 1:
            return float(compiled.search(shown) is not None)
        found = sum(1 for _ in islice(compiled.finditer(shown), self.min_count))
        return _share(found, self.min_count)


@cache
def _compiled(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    return re.compile(pattern, REGEX_FLAGS[ignore_case])


class JsonValid(Frozen):
    """Is JSON, as a whole or in its first fenced block, with ``required_keys`` at the top level."""

    type: Literal["json_valid"] = "json_valid"
    required_keys: tuple[str, ...] = ()

    def grade(self, prompt: str, response: str) -> float:
        blocks = wording.fenced_blocks(response)
        try:
            value = json.loads(blocks[0][1] if blocks else response)
        except (ValueError, RecursionError):
            return 0.0
        if not self.required_keys:
            return 1.0
        have = value if isinstance(value, dict) else {}
        return sum(key in have for key in self.required_keys) / len(self.required_keys)


class CodeCompiles(Frozen):
    """Share of the fenced Python blocks that parse; 0 without one."""

    type: Literal["code_compiles"] = "code_compiles"

    def grade(self, prompt: str, response: str) -> float:
        blocks = [code for language, code in wording.fenced_blocks(response) if language in _PYTHON]
        return sum(map(_parses, blocks)) / len(blocks) if blocks else 0.0


_PYTHON = {"", "py", "python", "python3"}


def _parses(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # about the graded text, not about us
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


Check = Annotated[
    WordCount
    | StatedLimit
    | Structure
    | Specificity
    | CueWords
    | Refusal
    | HollowOpener
    | Repetition
    | PromptOverlap
    | NewContent
    | ContentDensity
    | Wordiness
    | WordLength
    | GraderAddress
    | Regex
    | JsonValid
    | CodeCompiles,
    Field(discriminator="type"),
]
"""The closed registry."""
