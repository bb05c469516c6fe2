"""Transcripts in the hh-rlhf layout: ``\\n\\nHuman: …\\n\\nAssistant: …`` as messages.

The response starts after the **last** ``\\n\\nAssistant:``; everything before it is the prompt,
with all its turns. A consecutive pair of turns of one speaker stays two messages. White space
around a turn is layout, not text.
"""

from __future__ import annotations

import re

from reward_harness.data.records import Message
from reward_harness.errors import DataError

ASSISTANT = "\n\nAssistant:"
TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def split_transcript(text: str) -> tuple[str, str]:
    """(prompt transcript, response) of a transcript; ``DataError`` if nobody answers in it."""
    position = text.rfind(ASSISTANT)
    if position < 0:
        raise DataError(
            "transcript has no assistant turn",
            got=text[:80],
            expected=f"a turn starting {ASSISTANT!r}",
        )
    return text[:position], text[position + len(ASSISTANT) :].strip()


def messages_of(transcript: str) -> list[Message]:
    """The turns of a prompt transcript in order.

    ``DataError`` for text outside turns or an empty turn.
    """
    parts = TURN.split(transcript)
    if parts[0].strip() or len(parts) < 3:
        raise DataError(
            "transcript does not start with a turn",
            got=transcript[:80],
            expected="'\\n\\nHuman: …'",
        )
    turns = [(ROLES[who], text.strip()) for who, text in zip(parts[1::2], parts[2::2], strict=True)]
    for number, (role, text) in enumerate(turns, start=1):
        if not text:
            raise DataError(f"turn {number} ({role}) of the prompt is empty")
    return [Message.model_validate({"role": role, "content": text}) for role, text in turns]
