"""Readers of preference pairs: TRL's layouts, hh-rlhf transcripts, RewardBench and JudgeBench.

Formats: TRL "Dataset formats" (preference, implicit and explicit prompt, standard and
conversational); hh-rlhf (arXiv 2204.05862); RewardBench (arXiv 2403.13787: prompt, chosen,
rejected, subset, id); JudgeBench (arXiv 2410.12784: pair_id, question, response_A, response_B,
label "A>B" or "B>A").
"""

from __future__ import annotations

from typing import Literal

from reward_harness.data.readers.rows import Row, reader_of, user
from reward_harness.data.readers.transcripts import messages_of, split_transcript
from reward_harness.data.records import Message, PreferencePair
from reward_harness.errors import DataError


class TRLRow(Row):
    """``prompt`` is absent where both sides repeat it; texts are plain or lists of messages."""

    prompt: str | list[Message] | None = None
    chosen: str | list[Message]
    rejected: str | list[Message]
    margin: float | None = None


def trl_pair(row: TRLRow, pair_id: str, source: str) -> PreferencePair:
    """A pair of any of TRL's four preference layouts."""
    if isinstance(row.chosen, str) and isinstance(row.rejected, str):
        prompt, chosen, rejected = _plain(row.prompt, row.chosen, row.rejected)
    elif isinstance(row.chosen, list) and isinstance(row.rejected, list):
        prompt, chosen, rejected = _conversational(row.prompt, row.chosen, row.rejected)
    else:
        raise DataError("one of chosen and rejected is text and the other a list of messages")
    return PreferencePair(
        pair_id=pair_id,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        source=source,
        margin=row.margin,
    )


def _plain(
    prompt: str | list[Message] | None, chosen: str, rejected: str
) -> tuple[list[Message], str, str]:
    if prompt is not None:
        return (user(prompt) if isinstance(prompt, str) else prompt), chosen, rejected
    shared = _shared_words(chosen, rejected)
    if not shared.strip():
        raise DataError(
            "chosen and rejected do not start with the same prompt",
            got=chosen[:60],
            expected="a `prompt` field, or one prompt at the start of both",
        )
    return user(shared.strip()), chosen[len(shared) :].strip(), rejected[len(shared) :].strip()


def _shared_words(chosen: str, rejected: str) -> str:
    """The longest common start that ends where a word does.

    TRL's ``extract_prompt`` cuts between characters, so that "The cat" and "The car" share "The
    ca"; here they share "The".
    """
    pairs = zip(chosen, rejected, strict=False)
    length = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    shared = chosen[:length]
    inside = any(len(s) > len(shared) and not s[len(shared)].isspace() for s in (chosen, rejected))
    if not inside:
        return shared
    return shared[: max((i + 1 for i, c in enumerate(shared) if c.isspace()), default=0)]


def _conversational(
    prompt: str | list[Message] | None, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], str, str]:
    given = user(prompt) if isinstance(prompt, str) else prompt or []
    sides = [_answered(side, name) for side, name in ((chosen, "chosen"), (rejected, "rejected"))]
    (before, answer), (before_rejected, answer_rejected) = sides
    if before != before_rejected:
        raise DataError(
            "prompts of chosen and rejected differ", expected="the same turns before the last one"
        )
    if not given + before:
        raise DataError(
            "there is no prompt", expected="a `prompt` field, or turns before the answer"
        )
    return given + before, answer, answer_rejected


def _answered(messages: list[Message], side: str) -> tuple[list[Message], str]:
    if not messages or messages[-1].role != "assistant":
        raise DataError(f"the last message of {side} is not the assistant's")
    return messages[:-1], messages[-1].content


class HHRow(Row):
    """Two transcripts that differ in their last assistant turn."""

    chosen: str
    rejected: str


def hh_pair(row: HHRow, pair_id: str, source: str) -> PreferencePair:
    """Split at the last assistant turn of each side.

    ``DataError`` unless both prompts are the same.
    """
    prompt, chosen = split_transcript(row.chosen)
    prompt_rejected, rejected = split_transcript(row.rejected)
    if prompt != prompt_rejected:
        raise DataError(
            "prompts of chosen and rejected differ",
            got=prompt_rejected[-60:],
            expected=f"…{prompt[-60:]!r}",
        )
    for side, text in (("chosen", chosen), ("rejected", rejected)):
        if not text:
            raise DataError(
                f"the response of {side} is empty", expected="text after the last Assistant:"
            )
    return PreferencePair(
        pair_id=pair_id, prompt=messages_of(prompt), chosen=chosen, rejected=rejected, source=source
    )


class RewardBenchRow(Row):
    """One pair of a RewardBench subset.

    Its ``id`` counts within the subset only, so the line makes ours.
    """

    prompt: str
    chosen: str
    rejected: str
    subset: str


def reward_bench_pair(row: RewardBenchRow, pair_id: str, source: str) -> PreferencePair:
    """``source`` becomes the subset, by which RewardBench accuracies are reported."""
    return PreferencePair(
        pair_id=pair_id,
        prompt=user(row.prompt),
        chosen=row.chosen,
        rejected=row.rejected,
        source=row.subset,
    )


class JudgeBenchRow(Row):
    """Two responses and which one is objectively right."""

    pair_id: str
    source: str
    question: str
    response_A: str
    response_B: str
    label: Literal["A>B", "B>A"]


def judge_bench_pair(row: JudgeBenchRow, pair_id: str, source: str) -> PreferencePair:
    """The right response is chosen; ``source`` is the benchmark the question came from."""
    first, second = row.response_A, row.response_B
    chosen, rejected = (first, second) if row.label == "A>B" else (second, first)
    return PreferencePair(
        pair_id=row.pair_id,
        prompt=user(row.question),
        chosen=chosen,
        rejected=rejected,
        source=row.source,
    )


TRL = reader_of(PreferencePair, TRLRow, trl_pair)
HH_RLHF = reader_of(PreferencePair, HHRow, hh_pair)
REWARD_BENCH = reader_of(PreferencePair, RewardBenchRow, reward_bench_pair)
JUDGE_BENCH = reader_of(PreferencePair, JudgeBenchRow, judge_bench_pair)
