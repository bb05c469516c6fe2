"""Which part of a text is looked at before it is graded.

``extract`` never makes a text empty: where nothing matches, or only blanks, the whole text counts.
Tags are found in one pass, so a text of unclosed tags costs linear time. A ``regex`` is the user's
own: it sees the first ``MAX_REGEX_CHARACTERS`` only, which bounds polynomial patterns; a pattern
with nested repeats can still be slow, as ``re`` knows no time limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from reward_harness.search_sections import Extraction, GradedParts

MAX_REGEX_CHARACTERS = 100_000
WHOLE = Extraction()
WHOLE_TEXTS = GradedParts()
GRADED_PARTS_NAME = "graded_parts.json"


def extract(settings: Extraction, text: str) -> str:
    """The part of ``text`` that ``settings`` names; ``text`` itself where there is none."""
    match settings.strategy:
        case "identity":
            return text
        case "tag":
            found = tag_contents(text, settings.tag)
        case "regex":
            found = _groups(settings, text)
        case "answer":
            found = tag_contents(text, "answer")
            if not _joined(found, ""):
                found = [without_tag(text, "think")]
    return _joined(found, settings.join_separator) or text


def tag_contents(text: str, tag: str) -> list[str]:
    """What stands in each ``<tag>…</tag>``, case-insensitive, from an opening tag to the next
    closing one.
    """
    return [text[start:end] for _, start, end, _ in _tagged(text, tag)]


def without_tag(text: str, tag: str) -> str:
    """``text`` without its ``<tag>…</tag>``."""
    kept, position = list[str](), 0
    for before, _, _, after in _tagged(text, tag):
        kept.append(text[position:before])
        position = after
    return "".join([*kept, text[position:]])


def _tagged(text: str, tag: str) -> Iterator[tuple[int, int, int, int]]:
    """(opening tag's start, its end, closing tag's start, its end) of each closed element."""
    marks = re.compile(rf"<(/?){re.escape(tag)}(?:\s[^<>]*)?>", re.IGNORECASE)
    opened: re.Match[str] | None = None
    for mark in marks.finditer(text):
        if not mark.group(1):
            opened = opened or mark
        elif opened is not None:
            yield opened.start(), opened.end(), mark.start(), mark.end()
            opened = None


def _groups(settings: Extraction, text: str) -> list[str]:
    if settings.pattern is None:
        return []
    matches = re.finditer(settings.pattern, text[:MAX_REGEX_CHARACTERS])
    return [m.group(settings.group) or "" for m in matches]


def _joined(parts: list[str], separator: str) -> str:
    return separator.join(part.strip() for part in parts if part.strip())
