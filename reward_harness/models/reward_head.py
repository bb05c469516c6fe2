"""A reward model: backbone, pooling, one linear map to a number, and their tokenisation.

Encoders (MiniLM) read ``[CLS] context [SEP] response [SEP]`` and take a masked mean of the last
hidden states; decoders read the chat template's rendering with the end token and take the hidden
state at the last token that is not padding. Then Linear(H → 1, no bias). Positions are explicit, so
left and right padding give the same number. Too long a conversation loses its oldest context first,
its response only when that alone is too long, and every cut is counted. A model that ``reads`` the
last turn sees of the context only the message that the response answers.

A saved model is a backbone in the transformers layout beside ``reward_head.safetensors`` and
``reward_model.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from reward_harness.errors import ArtifactError
from reward_harness.hashing import canonical_json
from reward_harness.manifest import Frozen
from reward_harness.models.batches import (
    first_position,
    in_batches,
    pad_batch,
    padding_on,
    position_ids,
)
from reward_harness.models.chat import (
    Turns,
    encode_prompt,
    encode_response,
    encode_text,
    fit,
    pad_id,
    token_id,
)
from reward_harness.models.embedded import load_backbone_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEAD_NAME = "reward_head.safetensors"
SETTINGS_NAME = "reward_model.json"
SCORE_BATCH_TOKENS = 4096

Pooling = Literal["mean", "response_mean", "last"]
Reads = Literal["conversation", "last_turn"]

NO_PROMPT: Turns = ({"role": "user", "content": ""},)
"""What a decoder reads before a response to nothing: chat templates need a message."""


class RewardModelFile(Frozen):
    """``reward_model.json``: how the backbone's states become a score."""

    schema_version: str = "1.0"
    pooling: Pooling
    max_length: int
    hidden_size: int
    reads: Reads = "conversation"


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """Token ids with the half-open range that is pooled; ``cut_*`` count ids that did not fit."""

    ids: tuple[int, ...]
    pooled: tuple[int, int]
    cut_context: int = 0
    cut_response: int = 0


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """Padded conversations: ids, attention mask and pooling weights, each (B, T)."""

    ids: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device) -> RewardBatch:
        return RewardBatch(*(t.to(device) for t in (self.ids, self.mask, self.weights)))


def encode_context(tokenizer: PreTrainedTokenizerBase, context: Turns) -> list[int]:
    """Ids of the turns before a response, for a decoder; ``NO_PROMPT`` where there are none."""
    return encode_prompt(tokenizer, context or NO_PROMPT)


class RewardModel(nn.Module):
    """See the module's docstring; build with ``from_backbone`` or ``load``."""

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: RewardModelFile,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.settings = settings
        self.head = nn.Linear(settings.hidden_size, 1, bias=False)
        self.first_position = first_position(backbone)

    @classmethod
    def from_backbone(
        cls,
        folder: Path,
        *,
        max_length: int,
        pooling: Pooling | None = None,
        reads: Reads = "conversation",
        dtype: str = "float32",
        device: str = "cpu",
    ) -> RewardModel:
        """A backbone with a zero head: every score is 0 until it is trained."""
        backbone, tokenizer = load_backbone_folder(folder, dtype=dtype, device=device)
        chosen: Pooling = pooling or ("last" if tokenizer.cls_token_id is None else "response_mean")
        settings = RewardModelFile(
            pooling=chosen,
            max_length=max_length,
            hidden_size=int(backbone.config.hidden_size),
            reads=reads,
        )
        model = cls(backbone, tokenizer, settings)
        nn.init.zeros_(model.head.weight)
        return model.to(torch.device(device)).eval()

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu", dtype: str = "float32") -> RewardModel:
        """Read what ``save`` wrote; ``ArtifactError`` if it is not a reward model."""
        try:
            settings = RewardModelFile.model_validate_json((folder / SETTINGS_NAME).read_bytes())
            head = load_file(folder / HEAD_NAME)["weight"]
        except (OSError, KeyError, ValidationError) as error:
            raise ArtifactError(
                "not a reward model",
                where=str(folder),
                got=str(error).splitlines()[0],
                expected=f"{SETTINGS_NAME} and {HEAD_NAME} beside a backbone",
            ) from error
        backbone, tokenizer = load_backbone_folder(folder, dtype=dtype, device=device)
        model = cls(backbone, tokenizer, settings)
        model.head.weight.data.copy_(head)
        return model.to(torch.device(device)).eval()

    def save(self, folder: Path) -> None:
        """Write backbone, tokenizer, head and settings; safetensors and JSON only."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file(
            {"weight": self.head.weight.detach().float().cpu().contiguous()}, folder / HEAD_NAME
        )
        (folder / SETTINGS_NAME).write_bytes(canonical_json(self.settings.model_dump()))

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def encode(self, conversation: Turns) -> EncodedConversation:
        """Ids of a conversation whose last turn is the response to be scored."""
        first = -2 if self.settings.reads == "last_turn" else 0
        context, response = conversation[first:-1], conversation[-1]["content"]
        if self.settings.pooling == "last":
            return self._encode_for_decoder(context, response)
        return self._encode_for_encoder(context, response)

    def _encode_for_decoder(self, context: Turns, response: str) -> EncodedConversation:
        prompt = encode_context(self.tokenizer, context)
        found = fit(prompt, encode_response(self.tokenizer, response), self.settings.max_length)
        length = len(found.ids)
        return EncodedConversation(
            tuple(found.ids), (length - 1, length), found.cut_prompt, found.cut_response
        )

    def _encode_for_encoder(self, context: Turns, response: str) -> EncodedConversation:
        """``[CLS] role: text … [SEP] response [SEP]``; pools the response, or everything."""
        start, separator = token_id(self.tokenizer, "cls"), token_id(self.tokenizer, "sep")
        told = encode_text(
            self.tokenizer, " ".join(f"{t['role']}: {t['content']}" for t in context)
        )
        answer = encode_text(self.tokenizer, response)
        answer_kept = answer[: self.settings.max_length - 3]
        room = self.settings.max_length - 3 - len(answer_kept)
        told_kept = told[len(told) - min(room, len(told)) :]
        ids = (start, *told_kept, separator, *answer_kept, separator)
        first = len(told_kept) + 2 if self.settings.pooling == "response_mean" else 0
        return EncodedConversation(
            ids, (first, len(ids)), len(told) - len(told_kept), len(answer) - len(answer_kept)
        )

    def batch(
        self, rows: Sequence[EncodedConversation], side: Literal["left", "right"] = "right"
    ) -> RewardBatch:
        """Pad encoded conversations into one batch."""
        ids, mask = pad_batch([row.ids for row in rows], pad_id(self.tokenizer), side)
        weights = torch.zeros(ids.shape)
        for index, row in enumerate(rows):
            offset = ids.shape[1] - len(row.ids) if side == "left" else 0
            first, last = row.pooled
            weights[index, offset + first : offset + last] = 1.0 / (last - first)
        return RewardBatch(ids, mask, weights)

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Last hidden states (B, T, H) of padded ids."""
        positions = position_ids(mask, self.first_position)
        return self.backbone(
            input_ids=ids, attention_mask=mask, position_ids=positions
        ).last_hidden_state

    def pool(self, batch: RewardBatch) -> torch.Tensor:
        """Pooled states (B, H) in float32."""
        states = self.states(batch.ids, batch.mask)
        return torch.einsum("bth,bt->bh", states.float(), batch.weights)

    def forward(self, batch: RewardBatch) -> torch.Tensor:
        """Scores (B,)."""
        return self.head(self.pool(batch)).squeeze(-1)

    def score_conversations(
        self, conversations: Sequence[Turns], batch_tokens: int = SCORE_BATCH_TOKENS
    ) -> list[float]:
        """A score for each conversation, in order."""
        return [score for score, _ in self.score_counted(conversations, batch_tokens)]

    def score_counted(
        self, conversations: Sequence[Turns], batch_tokens: int = SCORE_BATCH_TOKENS
    ) -> list[tuple[float, int]]:
        """``(score, tokens read)`` of each conversation, in order."""
        encoded = [self.encode(conversation) for conversation in conversations]
        scores = self._in_batches(encoded, batch_tokens, self.forward)
        return [(float(score), len(row.ids)) for score, row in zip(scores, encoded, strict=True)]

    def pooled_features(
        self, encoded: Sequence[EncodedConversation], batch_tokens: int = SCORE_BATCH_TOKENS
    ) -> torch.Tensor:
        """Pooled states (N, H) of encoded conversations, without gradient, in order."""
        if not encoded:
            return torch.zeros(0, self.settings.hidden_size)
        return torch.stack(self._in_batches(encoded, batch_tokens, self.pool))

    def _in_batches(
        self,
        encoded: Sequence[EncodedConversation],
        batch_tokens: int,
        compute: Callable[[RewardBatch], torch.Tensor],
    ) -> list[torch.Tensor]:
        def of(indices: list[int]) -> torch.Tensor:
            batch = self.batch([encoded[index] for index in indices])
            return compute(batch.to(self.device)).cpu()

        lengths = [len(row.ids) for row in encoded]
        with torch.inference_mode():
            return in_batches(lengths, batch_tokens, of, padding_on(self.device))
