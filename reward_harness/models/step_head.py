"""A reward head read at the end of every step of a solution, without seeing what comes after it.

A causal backbone reads a solution once, one step a line, and is asked at each line's last token. An
encoder sees everything it is given, and would know the last step by its place: it gets one input
for each step, with the steps before as context and pooling over the step alone. A solution that is
too long for one causal input is read the same way, so that no step is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reward_harness.models.batches import in_batches, pad_batch, padding_on
from reward_harness.models.chat import Turns, encode_text, pad_id
from reward_harness.models.reward_head import SCORE_BATCH_TOKENS, RewardModel, encode_context


@dataclass(frozen=True, slots=True)
class EncodedSteps:
    """Token ids and the half-open range of each step that is pooled, in order."""

    ids: tuple[int, ...]
    pooled: tuple[tuple[int, int], ...]


def encode_steps(model: RewardModel, prompt: Turns, steps: Sequence[str]) -> list[EncodedSteps]:
    """Inputs whose pooled ranges are, one after another, the solution's steps."""
    if model.settings.pooling != "last":
        return [
            _after_context(model, prompt, steps[:number], step) for number, step in enumerate(steps)
        ]
    ids = encode_context(model.tokenizer, prompt)
    ends: list[tuple[int, int]] = []
    for step in steps:
        ids += encode_text(model.tokenizer, f"{step}\n")
        ends.append((len(ids) - 1, len(ids)))
    if len(ids) <= model.settings.max_length:
        return [EncodedSteps(tuple(ids), tuple(ends))]
    return [_window(ids[:end], model.settings.max_length) for _, end in ends]


def _window(ids: list[int], size: int) -> EncodedSteps:
    kept = tuple(ids[-size:])
    return EncodedSteps(kept, ((len(kept) - 1, len(kept)),))


def _after_context(
    model: RewardModel, prompt: Turns, earlier: Sequence[str], step: str
) -> EncodedSteps:
    told = [{"role": "assistant", "content": "\n".join(earlier)}] if earlier else []
    found = model.encode([*prompt, *told, {"role": "assistant", "content": step}])
    return EncodedSteps(found.ids, (found.pooled,))


def step_features(model: RewardModel, rows: Sequence[EncodedSteps]) -> torch.Tensor:
    """Pooled states (K, H) of the K steps of all rows, in order; one forward pass."""
    ids, mask = pad_batch([row.ids for row in rows], pad_id(model.tokenizer))
    states = model.states(ids.to(model.device), mask.to(model.device)).float()
    return torch.stack(
        [states[i, a:b].mean(dim=0) for i, row in enumerate(rows) for a, b in row.pooled]
    )


def step_logits(model: RewardModel, rows: Sequence[EncodedSteps]) -> torch.Tensor:
    """Logits (K,) that each step is right."""
    return model.head(step_features(model, rows)).squeeze(-1)


def all_step_features(model: RewardModel, rows: Sequence[EncodedSteps]) -> torch.Tensor:
    """As ``step_features`` without gradient, in batches of a token budget."""

    def of(indices: list[int]) -> Sequence[torch.Tensor]:
        batch = [rows[index] for index in indices]
        return step_features(model, batch).cpu().split([len(row.pooled) for row in batch])

    lengths = [len(row.ids) for row in rows]
    with torch.inference_mode():
        found = in_batches(lengths, SCORE_BATCH_TOKENS, of, padding_on(model.device))
    return torch.cat(found).clone()


def step_probabilities(model: RewardModel, rows: Sequence[EncodedSteps]) -> list[float]:
    """Probability that each of the K steps of all rows is right, in order."""
    if not rows:
        return []
    features = all_step_features(model, rows).to(model.device)
    with torch.no_grad():
        return torch.sigmoid(model.head(features).squeeze(-1)).tolist()
