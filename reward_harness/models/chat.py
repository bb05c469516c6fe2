"""From messages to token ids: the one tokenisation that training, generation and scoring share.

A prompt is rendered by the tokenizer's chat template up to where the assistant starts; a response
is its text and the end token. What does not fit is cut from the *left of the prompt* first, so that
a response is read whole; every cut is counted and reported, nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a prompt and its response, and how many of each were cut to fit."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    cut_prompt: int = 0
    cut_response: int = 0

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.response]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Turns) -> list[int]:
    """Ids of the chat template's rendering of ``messages``, up to where the assistant speaks."""
    turns: list[dict[str, Any]] = [dict(message) for message in messages]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return encode_text(tokenizer, str(text))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of plain text; no token is added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a response and the end token after it."""
    return [*encode_text(tokenizer, text), end_id(tokenizer)]


def token_id(tokenizer: PreTrainedTokenizerBase, role: Literal["eos", "pad", "cls", "sep"]) -> int:
    """The id of the tokenizer's token for ``role``; ``ValueError`` if it has none."""
    token = getattr(tokenizer, f"{role}_token_id")
    if not isinstance(token, int):
        raise ValueError(f"the tokenizer has no {role} token")
    return token


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token that ends a response."""
    return token_id(tokenizer, "eos")


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills a batch; never the end token (see ``models.embedded``)."""
    token = token_id(tokenizer, "pad")
    if token == tokenizer.eos_token_id:
        raise ValueError("the tokenizer needs a padding token that is not its end token")
    return token


def fit(prompt: Sequence[int], response: Sequence[int], max_length: int) -> Encoded:
    """Cut to ``max_length`` ids: the prompt from its left, then the response from its right.

    At least one prompt id stays, for the first response token needs something before it.
    """
    kept_response = list(response)[: max_length - 1]
    room = max_length - len(kept_response)
    kept_prompt = list(prompt)[-room:]
    return Encoded(
        tuple(kept_prompt),
        tuple(kept_response),
        cut_prompt=len(prompt) - len(kept_prompt),
        cut_response=len(response) - len(kept_response),
    )


def encode_example(
    tokenizer: PreTrainedTokenizerBase, prompt: Turns, response: str, max_length: int
) -> Encoded:
    """Prompt and response with its end token, in at most ``max_length`` ids."""
    return fit(encode_prompt(tokenizer, prompt), encode_response(tokenizer, response), max_length)
