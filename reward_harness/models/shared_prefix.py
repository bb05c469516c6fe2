"""Two responses to one prompt in one row, so that a decoder computes their prompt once.

A row is ``[shared][rest of the first][rest of the second]``. A token sees the shared ones and those
of its own rest before it, and the positions of both rests follow on from the shared part, so each
rest ends on the state that it has in a row of its own. Pairs of a conversation and two answers to
it lose 24 % (data/tour) to 34 % (hh-rlhf harmless) of their tokens this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Row = tuple[Sequence[int], Sequence[int], int]
"""The token ids of the first and of the second sequence, and how many leading ones they share."""

PROBE: Row = (range(1, 13), (*range(1, 8), 5, 4, 3), 7)
TOLERANCE = 1e-3
"""Largest difference of a state, relative to the largest state, between the two ways."""


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Leading tokens that both have; at least one token of each stays its own."""
    equal = takewhile(lambda two: two[0] == two[1], zip(first[:-1], second[:-1], strict=False))
    return sum(1 for _ in equal)


def can_share(backbone: PreTrainedModel) -> bool:
    """Whether the backbone takes such rows: full attention through ``sdpa``, explicit positions.

    The settings rule out what a short probe can't show; then the probe decides.
    """
    settings: Any = backbone.config
    kinds = getattr(settings, "layer_types", None)
    window = getattr(settings, "sliding_window", None) if kinds is None else None
    plain = window is None and set(kinds or ()) <= {"full_attention"}
    if not plain or settings._attn_implementation != "sdpa" or settings.vocab_size <= PROBE[0][-1]:
        return False
    device = backbone.device
    with torch.inference_mode():
        together = last_states(backbone, [PROBE], 0)[0]
        for sequence, state in zip(PROBE[:2], together, strict=True):
            ids = torch.tensor([[*sequence]], device=device)
            alone = backbone(input_ids=ids).last_hidden_state[0, -1]
            if (alone - state).abs().max() > TOLERANCE * alone.abs().max():
                return False
    return True


def last_states(backbone: Any, rows: Sequence[Row], pad: int) -> torch.Tensor:
    """States (B, 2, H) at the last token of both sequences of each row."""
    device = backbone.device
    width = max(len(one) + len(two) - shared for one, two, shared in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    positions = torch.zeros_like(ids)
    part = torch.full_like(ids, 3)  # 0 shared, 1 and 2 the rests, 3 padding
    ends: list[tuple[int, int]] = []
    for index, (one, two, shared) in enumerate(rows):
        own = len(one) - shared, len(two) - shared
        end = shared + sum(own)
        ids[index, :end] = torch.tensor((*one, *two[shared:]))
        positions[index, :end] = torch.tensor((*range(len(one)), *range(shared, len(two))))
        part[index, :end] = torch.tensor((0,) * shared + (1,) * own[0] + (2,) * own[1])
        ends.append((len(one) - 1, end - 1))
    same = part[:, :, None] == part[:, None, :]
    seen = (same | (part[:, None, :] == 0)) & torch.ones(width, width, dtype=torch.bool).tril()
    states = backbone(
        input_ids=ids.to(device),
        attention_mask=seen[:, None].to(device),
        position_ids=positions.to(device),
    ).last_hidden_state
    return states[
        torch.arange(len(rows), device=device)[:, None], torch.tensor(ends, device=device)
    ]
