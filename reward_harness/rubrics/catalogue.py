"""Ready-made programmatic criteria: what the template proposer can add to a rubric, from lax to
strict.

An entry is one idea with parameter variants of one check. ``group`` says which mutation modes
draw on it: ``substance`` (content that answers), ``fluff`` (faults of padding), ``form`` (layout
and length), ``manner`` (refusals, certainty).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reward_harness.hashing import digest_json
from reward_harness.rubrics import checks as c
from reward_harness.rubrics.types import Criterion, Rubric

Group = Literal["substance", "fluff", "form", "manner"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One idea: ``text`` is filled with the fields of the chosen variant."""

    name: str
    group: Group
    polarity: Literal[1, -1]
    text: str
    variants: tuple[c.Check, ...]

    def criterion(self, variant: int, weight: float = 1.0) -> Criterion:
        """The criterion of one variant (0 the laxest)."""
        check = self.variants[variant]
        return Criterion(
            criterion_id=self.name,
            text=self.text.format(**check.model_dump()),
            weight=weight,
            kind="programmatic",
            polarity=self.polarity,
            check=check,
        )


def _cues(
    cue: Literal["vague", "filler", "explanation", "absolute"], *densities: float
) -> tuple[c.Check, ...]:
    return tuple(c.CueWords(cue=cue, cues_per_100=d) for d in densities)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "overlap",
        "substance",
        1,
        "Takes up the words of the question.",
        tuple(c.PromptOverlap(full_share=s) for s in (0.2, 0.4, 0.7, 1.0)),
    ),
    Entry(
        "new-content",
        "substance",
        1,
        "Brings at least {full_words} words of content of its own.",
        tuple(c.NewContent(full_words=n) for n in (8, 15, 30, 60)),
    ),
    Entry(
        "specific",
        "substance",
        1,
        "Names numbers, names, quotations or code, {cues_per_100:g} in 100 words.",
        tuple(c.Specificity(cues_per_100=d) for d in (1.5, 3, 6, 12)),
    ),
    Entry(
        "explains",
        "substance",
        1,
        "Gives reasons, conditions and examples, {cues_per_100:g} in 100 words.",
        _cues("explanation", 1, 2.5, 5),
    ),
    Entry(
        "dense",
        "substance",
        1,
        "Says something with every word: {full_per_100:g} different content words in 100.",
        tuple(c.ContentDensity(full_per_100=d) for d in (35, 45, 55, 70)),
    ),
    Entry(
        "numbers",
        "substance",
        1,
        "Names at least {min_count} numbers.",
        tuple(c.Regex(pattern=r"\d+(?:[.,]\d+)*", min_count=n) for n in (1, 2, 4)),
    ),
    Entry(
        "colon",
        "substance",
        1,
        "Spells something out after a colon.",
        (c.Regex(pattern=r":\s"), c.Regex(pattern=r":\s", min_count=2)),
    ),
    Entry("code", "substance", 1, "Shows code.", (c.Structure(element="code_block", min_items=1),)),
    Entry("code-compiles", "substance", 1, "Its code compiles.", (c.CodeCompiles(),)),
    Entry(
        "calculates",
        "substance",
        1,
        "Writes out a calculation.",
        (
            c.Regex(pattern=r"\d\s*[+*×÷=]\s*\d|\d\s[-/x]\s\d"),
            c.Regex(pattern=r"\d\s*[+*×÷=]\s*\d|\d\s[-/x]\s\d", min_count=2),
        ),
    ),
    Entry(
        "wordy",
        "fluff",
        -1,
        "Many function words, few that carry meaning.",
        (c.Wordiness(low=45, high=65), c.Wordiness(low=35, high=60)),
    ),
    Entry(
        "long-words",
        "fluff",
        -1,
        "Long words.",
        (c.WordLength(low=4.2, high=5.6), c.WordLength(low=3.8, high=5.2)),
    ),
    Entry(
        "opener",
        "fluff",
        -1,
        "Opens with praise or an announcement instead of the answer.",
        (c.HollowOpener(),),
    ),
    Entry(
        "filler",
        "fluff",
        -1,
        "Filler and empty politeness, {cues_per_100:g} in 100 words.",
        _cues("filler", 8, 5, 3, 1.5),
    ),
    Entry(
        "vague",
        "fluff",
        -1,
        "Vague words and hedges, {cues_per_100:g} in 100 words.",
        _cues("vague", 12, 8, 5, 3),
    ),
    Entry(
        "repetitive",
        "fluff",
        -1,
        "Repeats word sequences of length {n}.",
        (
            c.Repetition(n=3, full_share=0.3),
            c.Repetition(n=2, full_share=0.3),
            c.Repetition(n=1, full_share=0.7),
        ),
    ),
    Entry(
        "exclaims",
        "fluff",
        -1,
        "Exclaims.",
        (c.Regex(pattern="!", min_count=2), c.Regex(pattern="!")),
    ),
    Entry(
        "asks-back",
        "fluff",
        -1,
        "Ends with a question or an offer.",
        (c.Regex(pattern=r"(\?|let me know|feel free|hope (this|that)[^.]*)\W*\Z"),),
    ),
    Entry(
        "concise",
        "form",
        1,
        "At most {max_words} words.",
        tuple(c.WordCount(max_words=n) for n in (250, 120, 60, 30)),
    ),
    Entry(
        "enough",
        "form",
        1,
        "At least {min_words} words.",
        tuple(c.WordCount(min_words=n) for n in (8, 15, 30, 60)),
    ),
    Entry("keeps-limit", "form", 1, "Keeps a length that the prompt states.", (c.StatedLimit(),)),
    Entry(
        "list",
        "form",
        1,
        "A list of at least {min_items} items.",
        tuple(c.Structure(element="list", min_items=n) for n in (1, 2, 3)),
    ),
    Entry(
        "paragraphs",
        "form",
        1,
        "At least {min_items} paragraphs.",
        tuple(c.Structure(element="paragraph", min_items=n) for n in (2, 3)),
    ),
    Entry("declines", "manner", 1, "Declines to help.", (c.Refusal(),)),
    Entry("no-refusal", "manner", -1, "Declines to help.", (c.Refusal(),)),
    Entry(
        "addresses-grader",
        "manner",
        -1,
        "Speaks to its grader: orders, praise of itself, ready-made verdicts.",
        (c.GraderAddress(),),
    ),
    Entry(
        "absolute",
        "manner",
        -1,
        "Absolute claims, {cues_per_100:g} in 100 words.",
        _cues("absolute", 10, 6, 3),
    ),
    Entry(
        "hedged",
        "manner",
        1,
        "Allows for cases: hedged wording, {cues_per_100:g} in 100 words.",
        _cues("vague", 3, 6),
    ),
)

BY_NAME = {entry.name: entry for entry in ENTRIES}

INITIAL = (
    ("overlap", 1),
    ("new-content", 1),
    ("specific", 1),
    ("opener", 0),
    ("filler", 1),
    ("repetitive", 0),
    ("addresses-grader", 0),
)
"""The rubric a search without a model starts from: equal weights, middle variants."""


def entry_of(criterion: Criterion) -> tuple[Entry, int] | None:
    """The entry and variant that a criterion came from, or None for a foreign one."""
    for entry in ENTRIES:
        if criterion.polarity == entry.polarity and criterion.check in entry.variants:
            return entry, entry.variants.index(criterion.check)
    return None


def rubric_of(criteria: Sequence[Criterion], like: Rubric | None = None) -> Rubric:
    """A rubric whose ids follow from its content; scale, missing and votes come from ``like``."""
    unique = {(c.grading_digest, c.polarity): c for c in reversed(criteria)}
    kept = [c for c in criteria if unique[(c.grading_digest, c.polarity)] is c]
    numbered = tuple(x.model_copy(update={"criterion_id": f"c{i}"}) for i, x in enumerate(kept, 1))
    options = {} if like is None else like.model_dump(include={"scale", "missing", "votes"})
    content = digest_json([sorted((x.content for x in numbered), key=digest_json), options])
    return Rubric(rubric_id=f"r-{content[:12]}", criteria=numbered, **options)


def initial_rubric() -> Rubric:
    """The programmatic starting rubric."""
    return rubric_of([BY_NAME[name].criterion(variant) for name, variant in INITIAL])


def broad_rubric() -> Rubric:
    """Every entry at a middle variant: raw material for fitting weights."""
    return rubric_of([e.criterion(len(e.variants) // 2) for e in ENTRIES])
