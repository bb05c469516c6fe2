"""Texts as clients write them: a string, or a list of text parts; messages; nothing but text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from reward_harness.rewards.base import Conversation
from reward_harness.serving.wire import UnicodeText, Wire


class TextPart(Wire):
    """One part of a message; an image or a sound is an error, for no reward here takes one."""

    type: Literal["text"]
    text: UnicodeText


def _form(value: Any) -> str:
    """Decides which of the forms below an error is about."""
    if isinstance(value, list):
        return "many"
    return "parts" if isinstance(value, dict) else "text"


class Parts(Wire):
    """A text in parts."""

    content: list[TextPart]


Content = Annotated[
    Annotated[UnicodeText, Tag("text")] | Annotated[list[TextPart], Tag("many")],
    Discriminator(_form),
]
OneOrMany = Annotated[
    Annotated[UnicodeText, Tag("text")] | Annotated[list[UnicodeText], Tag("many")],
    Discriminator(_form),
]
Text = Annotated[
    Annotated[UnicodeText, Tag("text")] | Annotated[Parts, Tag("parts")], Discriminator(_form)
]
Texts = Annotated[
    Annotated[UnicodeText, Tag("text")]
    | Annotated[Parts, Tag("parts")]
    | Annotated[list[Text], Tag("many")],
    Discriminator(_form),
]


class Message(Wire):
    """One turn, in the OpenAI form."""

    role: UnicodeText
    content: Content


Prompt = Annotated[
    Annotated[UnicodeText, Tag("text")] | Annotated[list[Message], Tag("many")],
    Discriminator(_form),
]


def text_of(content: str | list[TextPart] | Parts) -> str:
    """The text of a message or a document."""
    if isinstance(content, str):
        return content
    parts = content.content if isinstance(content, Parts) else content
    return "".join(part.text for part in parts)


def texts_of(texts: str | Parts | list[str | Parts]) -> list[str]:
    """One text or many, as a list."""
    return [text_of(text) for text in (texts if isinstance(texts, list) else [texts])]


def turns_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as a conversation."""
    return [{"role": m.role, "content": text_of(m.content)} for m in messages]


def chars_of(conversation: Conversation) -> int:
    """Length of all its text."""
    return sum(len(turn["content"]) for turn in conversation)
