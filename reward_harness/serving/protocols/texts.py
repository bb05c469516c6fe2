"""Texts as clients write them: a string, or a list of text parts; messages; nothing but text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from reward_harness.rewards.base import Conversation
from reward_harness.serving.wire import UnicodeText, Wire


class TextPart(Wire):
    """One part of a message; an image or a sound is an error, for no reward here takes one."""

    type: Literal["text"]
    text: UnicodeText


Content = UnicodeText | list[TextPart]


class Message(Wire):
    """One turn, in the OpenAI form."""

    role: UnicodeText
    content: Content


def text_of(content: Content) -> str:
    """The text of a message."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def turns_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as a conversation."""
    return [{"role": m.role, "content": text_of(m.content)} for m in messages]


def chars_of(conversation: Conversation) -> int:
    """Length of all its text."""
    return sum(len(turn["content"]) for turn in conversation)


def cut(conversation: Conversation, limit: int) -> list[dict[str, str]]:
    """The last ``limit`` characters of a conversation: what goes first is the oldest turn."""
    excess = chars_of(conversation) - limit
    kept: list[dict[str, str]] = []
    for turn in conversation:
        dropped = min(max(excess, 0), len(turn["content"]))
        excess -= dropped
        kept.append({"role": turn["role"], "content": turn["content"][dropped:]})
    return kept
