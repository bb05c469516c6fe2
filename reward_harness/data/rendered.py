"""Conversations from text that a chat template has rendered.

Most trainers' clients send one string: prompt and response as the policy's template laid them out,
special tokens included. A reward wants turns. The layout is known by how the text **begins** (after
padding and begin-of-text tokens), so that plain text which happens to hold a marker stays plain.

The response starts after the last assistant marker, or, where the client also says what the prompt
was, right after that prompt: then a marker inside the response is the response's own text. End
tokens are layout and are dropped; everything else is kept to the letter, so that a prompt is
recognised by its content. Text in no known layout is a response without a prompt.

    >>> conversation_of_text("<|user|>\\n2+2?<|end|>\\n<|assistant|>\\n4<|end|>")
    [{'role': 'user', 'content': '2+2?'}, {'role': 'assistant', 'content': '4'}]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

Turn = dict[str, str]

ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eot|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<eos>",
    "<pad>",
    "<|pad|>",
    "[PAD]",
)
STARTS = (
    "<|begin_of_text|>",
    "<｜begin▁of▁sentence｜>",
    "<|startoftext|>",
    "<s>",
    "<bos>",
    "[gMASK]",
    "<sop>",
    *ENDS,
)
"""Padding on the left is made of end tokens in many tokenizers."""

BEGINNING = re.compile(rf"\A(?:{'|'.join(map(re.escape, STARTS))})+")
REVERSED_ENDING = re.compile(rf"(?:\s*+(?:{'|'.join(re.escape(t[::-1]) for t in ENDS)}))+")
"""Read backwards, because a search for the end of a text would try every token in it."""

CHATML = "<|im_start|>"
BARE_ROLE = re.compile(r"(?:system|user|assistant)\n")


class Span(NamedTuple):
    """One turn in a text: who speaks, and where what is said starts and ends."""

    role: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How one family of templates marks the start of a turn.

    Attributes:
        marker: matches at the start of each turn; its group ``role`` names who speaks.
        roles: that name as user, assistant or system.
        strips: whether white space around a turn is layout.
        system: matches a system text at the start of the first user turn.
    """

    marker: re.Pattern[str]
    roles: Mapping[str, str]
    strips: bool = False
    system: re.Pattern[str] | None = None


LAYOUTS = (
    # ChatML (Qwen, SmolLM2, …) and Phi-4
    Layout(re.compile(r"<\|im_start\|>(?P<role>system|user|assistant)(?:\n|<\|im_sep\|>)"), ROLES),
    # Llama 3
    Layout(
        re.compile(r"<\|start_header_id\|>(?P<role>system|user|assistant)<\|end_header_id\|>\n\n"),
        ROLES,
    ),
    # Llama 4
    Layout(
        re.compile(r"<\|header_start\|>(?P<role>system|user|assistant)<\|header_end\|>\n\n"), ROLES
    ),
    # Granite 3
    Layout(
        re.compile(r"<\|start_of_role\|>(?P<role>system|user|assistant)<\|end_of_role\|>"), ROLES
    ),
    # Zephyr, TinyLlama, Phi-3, GLM-4
    Layout(re.compile(r"<\|(?P<role>system|user|assistant)\|>\n"), ROLES),
    # Gemma
    Layout(
        re.compile(r"<start_of_turn>(?P<role>user|model)\n"), {"user": "user", "model": "assistant"}
    ),
    # DeepSeek
    Layout(
        re.compile(r"<｜(?P<role>User|Assistant)｜>"), {"User": "user", "Assistant": "assistant"}
    ),
    # Llama 2, Mistral
    Layout(
        re.compile(r" ?\[(?P<role>/?INST)\] ?"),
        {"INST": "user", "/INST": "assistant"},
        strips=True,
        system=re.compile(r"<<SYS>>\n(?P<text>.*?)\n<</SYS>>\n\n", re.DOTALL),
    ),
    # hh-rlhf
    Layout(
        re.compile(r"(?:\A|\n\n)(?P<role>Human|Assistant):"),
        {"Human": "user", "Assistant": "assistant"},
        strips=True,
    ),
)


def conversation_of_text(text: str) -> list[Turn]:
    """The turns of a rendered conversation; the last is the response.

    Text in no known layout becomes an assistant's turn alone; a conversation in which no assistant
    speaks stays without one, which no reward takes.
    """
    body = _body(text)
    layout = _layout_of(body)
    if layout is None:
        return [_turn("assistant", _without_ends(body))]
    spans = _spans(layout, body)
    spoken = [number for number, span in enumerate(spans) if span.role == "assistant"]
    if not spoken:
        return _said(layout, body, spans)
    last = spoken[-1]
    response = _clean(layout, body[spans[last].start :])
    return [*_said(layout, body, spans[:last]), _turn("assistant", response)]


def conversation_of_query(query: str, prompt: str | None) -> list[Turn]:
    """The turns of ``query``, a rendered conversation that starts with the rendered ``prompt``.

    A prompt in no known layout is one user turn. Without a prompt, or where the query does not
    start with it (a prompt that was truncated), the query speaks for itself.
    """
    if not prompt:
        return conversation_of_text(query)
    asked, whole = _body(prompt), _body(query)
    if not whole.startswith(asked):
        return conversation_of_text(query)
    response = whole[len(asked) :]
    layout = _layout_of(asked)
    if layout is None:
        return [_turn("user", asked), _turn("assistant", _without_ends(response))]
    spans = _spans(layout, asked)
    if spans[-1].role == "assistant":
        # the generation prompt, which may already hold the response's first word (<think>)
        response = asked[spans[-1].start :] + response
        spans = spans[:-1]
    return [*_said(layout, asked, spans), _turn("assistant", _clean(layout, response))]


def _layout_of(text: str) -> Layout | None:
    return next((layout for layout in LAYOUTS if layout.marker.match(text)), None)


def _spans(layout: Layout, text: str) -> list[Span]:
    marks = list(layout.marker.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        Span(layout.roles[mark["role"]], mark.end(), end)
        for mark, end in zip(marks, ends, strict=True)
    ]


def _said(layout: Layout, text: str, spans: list[Span]) -> list[Turn]:
    turns = [_turn(span.role, _clean(layout, text[span.start : span.end])) for span in spans]
    if layout.system is not None and turns and (found := layout.system.match(turns[0]["content"])):
        rest = turns[0]["content"][found.end() :]
        turns[:1] = [_turn("system", found["text"]), _turn(turns[0]["role"], rest)]
    return turns


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _clean(layout: Layout, text: str) -> str:
    text = _without_ends(text)
    return text.strip() if layout.strips else text


def _body(text: str) -> str:
    """``text`` after its padding and begin-of-text tokens.

    A tokenizer may use ChatML's own marker as begin-of-text (SmolLM2 does), and a client that takes
    that off the front takes half a marker with it: it is put back.
    """
    body = BEGINNING.sub("", text, count=1)
    return f"{CHATML}{body}" if BARE_ROLE.match(body) and f"\n{CHATML}" in body else body


def _without_ends(text: str) -> str:
    """``text`` before its end tokens and the white space between and after them."""
    ending = REVERSED_ENDING.match(text[::-1])
    return text[: len(text) - ending.end()] if ending else text
