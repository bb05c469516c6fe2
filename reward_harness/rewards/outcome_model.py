"""A published outcome reward model: conversation in, one number out.

The conversation is rendered by the model's own chat template and tokenised once. The reward is read
from the state of the last token that is not padding: found by the mask, so that left and right
padding give the same number and a padding token that is also the end token does no harm. An encoder
without a chat template reads the prompt and the response as a pair. What is too long loses its
beginning.

Conversations of like length go into one batch, at most ``batch_tokens`` with their padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch

from reward_harness.errors import SpecError
from reward_harness.models.batches import in_batches, pad_batch, padding_on
from reward_harness.models.chat import Turns, encode_text, pad_id
from reward_harness.models.published import Opened
from reward_harness.rubrics.grading import prompt_text

BATCH_TOKENS = 16384


class OutcomeModel:
    """Scores conversations with an opened model of one label."""

    def __init__(self, opened: Opened, batch_tokens: int = BATCH_TOKENS) -> None:
        labels = getattr(opened.settings, "num_labels", 1)
        if type(opened.model).__name__.endswith("ForSequenceClassification") and labels != 1:
            raise SpecError(
                "a reward model has one label",
                where=str(opened.settings.name_or_path),
                got=f"num_labels={labels}",
                expected="num_labels=1",
            )
        self.opened = opened
        self.batch_tokens = batch_tokens

    def encode(self, conversation: Turns) -> list[int]:
        """Token ids of a conversation, with the model's reward token where it has one."""
        tokenizer, longest = self.opened.tokenizer, self.opened.max_length
        if tokenizer.chat_template is None:
            context, response = prompt_text(conversation[:-1]), conversation[-1]["content"]
            pair = tokenizer(context, response, truncation="longest_first", max_length=longest)[
                "input_ids"
            ]
            return list(pair)
        turns = [dict(turn) for turn in conversation]
        ids = encode_text(tokenizer, str(tokenizer.apply_chat_template(turns, tokenize=False)))
        reward_token = getattr(self.opened.settings, "reward_token_id", None)
        if isinstance(reward_token, int) and ids[-1:] != [reward_token]:
            ids.append(reward_token)
        return ids[-longest:]

    def score_counted(self, conversations: Sequence[Turns]) -> list[tuple[float, int]]:
        """``(score, tokens read)`` of each conversation, in order."""
        rows = [self.encode(conversation) for conversation in conversations]
        scores = self.score_ids(rows)
        return [(score, len(row)) for score, row in zip(scores, rows, strict=True)]

    def score_ids(
        self, rows: Sequence[Sequence[int]], side: Literal["left", "right"] = "right"
    ) -> list[float]:
        """Scores of tokenised conversations, in order."""
        device, pad = self.opened.device, pad_id(self.opened.tokenizer)

        def of(batch: list[int]) -> list[float]:
            padded = pad_batch([rows[index] for index in batch], pad, side)
            ids, mask = (tensor.to(device) for tensor in padded)
            return self._logits(ids, mask).float().tolist()

        lengths = [len(row) for row in rows]
        with torch.inference_mode():
            return in_batches(lengths, self.batch_tokens, of, padding_on(device))

    def _logits(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Rewards (B,); a row's last real token is where the mask's running sum first peaks."""
        if self.opened.head is None:
            more = (
                {"token_type_ids": types}
                if (types := self._segments(ids, mask)) is not None
                else {}
            )
            return self.opened.model(input_ids=ids, attention_mask=mask, **more).logits[:, 0]
        states = self.opened.states(ids, mask)
        last = mask.cumsum(dim=1).argmax(dim=1)
        rows = torch.arange(ids.shape[0], device=ids.device)
        return self.opened.head(states[rows, last])[:, 0]

    def _segments(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """1 (B, T) after the first separator, for tokenizers that tell the pair's halves apart."""
        separator = self.opened.tokenizer.sep_token_id
        if separator is None or "token_type_ids" not in self.opened.tokenizer.model_input_names:
            return None
        ends = ids.eq(cast("int", separator)).to(torch.long)
        return (ends.cumsum(dim=1) - ends).clamp(max=1) * mask
