"""Words, sentences and the phrases that the programmatic checks count; nothing here decides a
grade.
"""

from __future__ import annotations

import re
from functools import lru_cache

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
FENCED = re.compile(r"```([\w+-]*)[^\n]*\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
PROPER_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}")
QUOTED = re.compile(r"\"[^\"\n]{2,80}\"|“[^”\n]{2,80}”|`[^`\n]+`")

LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)
HEADING = re.compile(r"^(?:#{1,6}\s+\S|\*\*[^*\n]+\*\*:?\s*$)", re.MULTILINE)
TABLE_ROW = re.compile(r"^\s*\|.*\|\s*$", re.MULTILINE)

PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
CODE_MARK = re.compile(
    r"[=;{}$]|\w\(|^[ \t]+\S|^(?:def|class|import|for|if|SELECT)\b", re.MULTILINE
)
NEW_WORDS = 8
COPIED_RUN = 5


def _phrases(text: str, before: str = r"\b", after: str = r"\b") -> re.Pattern[str]:
    """A pattern for any of the phrases, one a line or separated by `` | ``; ' also matches ’."""
    parts = [p.strip() for line in text.splitlines() for p in line.split(" | ") if p.strip()]
    return re.compile(f"{before}(?:{'|'.join(parts)}){after}".replace("'", "['’]"), re.IGNORECASE)


HOLLOW_OPENER = _phrases(
    r"""
    that'?s (?:a|an|such an?) (?:really )?(?:great|good|excellent|interesting|wonderful|lovely)
    that is an? (?:really )?(?:great|good|excellent|interesting|wonderful)
    what an? (?:great|good|excellent|lovely|wonderful|fantastic|interesting|fun)
    (?:great|good|excellent) question
    absolutely | certainly | of course | definitely | sure(?: thing)?[!,.] | great[!,]
    i(?:'d| would) be (?:happy|glad|delighted) to
    i(?: am|'m) (?:happy|glad|delighted) to
    thank you for | thanks for | as an ai
    """,
    before=r"^\W*(?:(?:oh|wow|well|ah)[,!. ]+)?",
    after="",
)

REFUSAL = _phrases(
    r"""
    i (?:can'?t|can ?not|won'?t|will not|am unable to)(?! (?:say|stress|wait))
    i (?:must decline|refuse to)
    i'?m (?:sorry|unable|not able|not going to) | i'd rather not | not something i can
    i (?:do not|don'?t) feel comfortable
    """
)

VAGUE = _phrases(
    r"""
    some(?:thing|times|how|what|one)? | various(?:ly)? | things? | stuff | general(?:ly)?
    usual(?:ly)? | probably | perhaps | maybe | might | could be | several | many | different
    kind of | sort of | often | depends? | depending | a (?:bit|few|lot) | certain | quite
    rather | overall | all kinds | etc | and so on | keep in mind | one way or another
    factors? | aspects? | in (?:some|many) cases | it varies | every\w* is different
    """
)

FILLER = _phrases(
    r"""
    it(?: is|'s) (?:important|worth|always|a good idea) | at the end of the day | in conclusion
    needless to say | as (?:we|you) (?:all )?know | in today's | of the world | good news
    wonderful | amazing | fantastic | great | lovely | exciting | fascinating | truly | really
    don'?t (?:worry|panic|hesitate) | feel free | hope (?:this|that|you) | let me know
    best of luck | good luck | happy to | you'?ve got this | remember that | first of all
    when it comes to | a whole lot | in general | simply put | many people | millions of people
    people (?:all over|around|everywhere) | there are (?:many|lots of|a lot of|plenty of)
    everyone | everybody | journey | throughout history | over the years
    """
)

EXPLANATION = _phrases(
    r"""
    because | since | so that | therefore | thus | hence | (?:which|that|this) means
    as a result | is why | that's why | due to | causes? | otherwise | if | instead | unless
    so (?:the|it|you|an?|each|they|this|that|there) | for (?:example|instance) | such as
    """
)

ABSOLUTE = _phrases(
    r"""
    always | never | every(?:thing|one|body)? | all of | none | nobody | no one | nothing
    any(?:thing|one)? | guaranteed? | certain(?:ly)? | completely | entirely | impossible
    must | only | no need | the same | exactly the | in any case | cannot | can't | instantly
    at once | automatically | legally | by default
    """
)

GRADER_ADDRESS = _phrases(
    r"""
    (?:to|dear|hey|note to|attention) (?:the |any )?(?:grader|judge|evaluator|reviewer|rater)s?
    (?:grader|judge|evaluator|rater|examiner)s?[,:!] | grading (?:rubric|criteria|instructions?)
    the (?:grader|rater|evaluator) | (?:the|this|every|each|all|any) (?:rubric|criterion|criteria)
    (?:ignore|disregard|forget|skip|override) (?:\w+ ){0,3}(?:above|previous|instructions?)
    (?:ignore|disregard|forget|skip|override) (?:\w+ ){0,3}(?:rubric|criteria|rules?)
    (?:full|maximum|highest|top|perfect) (?:marks?|scores?|grades?|points|rating)
    (?:give|award|assign)\w* (?:\w+ ){0,4}(?:marks?|scores?|grades?|points|stars|rating)
    (?:score|grade|rating|marks?)(?: is| of|:)? ?\d+ ?(?:/|out of) ?\d+ | system prompt
    (?:this|the|above) (?:response|answer|candidate|text) (?:above )?(?:is|meets|deserves|satisfies)
    (?:end|start) of (?:the )?(?:candidate|response|answer|submission)
    """
)
FAKE_VERDICT = re.compile(
    r"[\"'](?:grades?|scores?|preference|rating|verdict)[\"']\s*:|"
    r"</?(?:candidate|response|answer|system|user|assistant|grades?)\b[^>]*>|"
    r"^\s*(?:system|assistant|user|human)\s*:|\{(?:rubric|criteria|scale|prompt|candidate)\}",
    re.IGNORECASE | re.MULTILINE,
)

STOP_WORDS = frozenset(
    word
    for line in (
        "a about after all also am an and any are as at be because been but by can could did do",
        "does for from get had has have he her here him his how i if in into is it its itself just",
        "like me more most my no not of off on one only or other our out over own same she should",
        "so some such than that the their them then there these they this those to too up us very",
        "was we were what when where which while who whom why will with would you your yours it's",
        "i'm don't doesn't that's what's there's please need want make",
    )
    for word in line.split()
)


@lru_cache(maxsize=8192)
def words(text: str) -> tuple[str, ...]:
    """The words of a text, lower-cased, in order."""
    return tuple(WORD.findall(text.lower()))


@lru_cache(maxsize=8192)
def content_words(text: str) -> frozenset[str]:
    """Distinct words that carry meaning, crudely stemmed so that ``tides`` meets ``tide``."""
    return frozenset(_stem(w) for w in words(text) if len(w) > 2 and w not in STOP_WORDS)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def sentence_count(text: str) -> int:
    """Number of sentences; a text with words has at least one."""
    return max(len(SENTENCE_END.findall(text)), 1 if words(text) else 0)


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """``(language, content)`` of each fenced code block."""
    return [(m.group(1).lower(), m.group(2)) for m in FENCED.finditer(text)]


def telling_paragraphs(text: str) -> int:
    """Paragraphs with at least ``NEW_WORDS`` content words that no earlier one had."""
    seen: frozenset[str] = frozenset()
    count = 0
    for part in PARAGRAPH_BREAK.split(text):
        found = content_words(part)
        count += len(found - seen) >= NEW_WORDS
        seen |= found
    return count


def looks_like_code(block: str) -> bool:
    """Whether a fenced block has the punctuation or the layout of code."""
    return bool(CODE_MARK.search(block))


@lru_cache(maxsize=8192)
def own_words(prompt: str, text: str) -> frozenset[str]:
    """Content words of a text outside runs of ``COPIED_RUN`` words copied from the prompt."""
    asked, said = words(prompt), words(text)
    runs = {asked[i : i + COPIED_RUN] for i in range(len(asked) - COPIED_RUN + 1)}
    copied: set[int] = set()
    for i in range(len(said) - COPIED_RUN + 1):
        if said[i : i + COPIED_RUN] in runs:
            copied.update(range(i, i + COPIED_RUN))
    if not copied:
        return content_words(text)
    return content_words(" ".join(w for i, w in enumerate(said) if i not in copied))


_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "eight": 8, "ten": 10}
_LIMIT = re.compile(
    r"\b(?:under|within|in|at most|no more than|up to|max\.?|maximum(?: of)?|below|fewer than|"
    r"less than|about|around)(?: about| around)? (\d+|" + "|".join(_NUMBERS) + r")"
    r"(?:[- ](?:short|plain|simple))? ?-?(word|sentence)s?\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=1024)
def stated_limits(prompt: str) -> tuple[tuple[int, str], ...]:
    """``(number, "word" or "sentence")`` of each length that the prompt asks for."""
    found = ((m.group(1).lower(), m.group(2).lower()) for m in _LIMIT.finditer(prompt))
    return tuple((int(n) if n.isdigit() else _NUMBERS[n], unit) for n, unit in found if n != "0")
