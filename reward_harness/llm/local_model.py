"""The torch half of the local backend: odds of an answer's first token, and generated replies.

Answers are told apart by their first token, with all spellings of each side added up; a token that
could begin either side (a lone space) counts for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reward_harness.models.batches import in_batches, pad_batch, position_ids
from reward_harness.models.chat import Turns, encode_prompt, encode_text, pad_id
from reward_harness.models.embedded import load_policy_folder
from reward_harness.models.generation import generate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_TOKENS = 4096
MAX_PROMPT_TOKENS = 4096
MAX_NEW_TOKENS = 512
VOTE_TEMPERATURE = 0.7


class LocalModel:
    """A causal model in memory; not for several threads at once."""

    def __init__(self, folder: Path, dtype: str) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model, self._tokenizer = load_policy_folder(folder, dtype=dtype, device=device)
        positions = getattr(self._model.config, "max_position_embeddings", MAX_PROMPT_TOKENS)
        self._max_tokens = min(int(positions), MAX_PROMPT_TOKENS)

    def log_odds(
        self, questions: Sequence[Turns], sides: tuple[Sequence[str], Sequence[str]]
    ) -> tuple[list[float], int]:
        """``(log P(first side) - log P(second side) of each question, tokens read)``.

        A question that is too long loses its beginning.
        """
        rows = [encode_prompt(self._tokenizer, q)[-self._max_tokens :] for q in questions]
        first, second = answer_ids(self._tokenizer, sides)

        def odds(batch: list[int]) -> list[float]:
            logits = self._next_logits([rows[index] for index in batch])
            return (logits[:, first].logsumexp(-1) - logits[:, second].logsumexp(-1)).tolist()

        lengths = [len(row) for row in rows]
        return in_batches(lengths, BATCH_TOKENS, odds), sum(lengths)

    def write(self, messages: Turns, vote: int) -> tuple[str, int, int]:
        """``(reply, tokens read, tokens written)``; vote 0 is greedy, others are drawn."""
        temperature = VOTE_TEMPERATURE if vote else 0.0
        room = max(self._max_tokens - MAX_NEW_TOKENS, 1)
        [reply] = generate(
            self._model,
            self._tokenizer,
            [messages],
            max_new_tokens=min(MAX_NEW_TOKENS, self._max_tokens // 2),
            temperature=temperature,
            seed=vote,
            max_prompt_tokens=room,
        )
        read = min(len(encode_prompt(self._tokenizer, messages)), room)
        return reply.text, read, len(reply.token_ids)

    def _next_logits(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (B, V) after each row, float32."""
        ids, mask = pad_batch(rows, pad_id(self._tokenizer), "left")
        device = self._model.device
        with torch.inference_mode():
            logits = self._model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=position_ids(mask).to(device),
                logits_to_keep=1,
            ).logits
        return logits[:, -1].float().cpu()


def answer_ids(
    tokenizer: PreTrainedTokenizerBase, sides: tuple[Sequence[str], Sequence[str]]
) -> tuple[list[int], list[int]]:
    """First tokens of each side's spellings, with and without a space before them."""
    first, second = (
        {encode_text(tokenizer, space + text)[0] for text in side for space in ("", " ")}
        for side in sides
    )
    return sorted(first - second), sorted(second - first)
