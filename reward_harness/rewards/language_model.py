"""A causal language model that says how likely it finds a response: the half of a density ratio.

A model without a chat template (a base model) reads the conversation as ``Role: text`` lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from reward_harness.models.chat import Turns, encode_prompt, encode_response
from reward_harness.models.embedded import load_policy_folder
from reward_harness.models.generation import response_logprobs
from reward_harness.rewards.base import Failed

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


class LanguageModel:
    """Loaded for evaluation; not for several threads at once."""

    def __init__(self, folder: Path, device: str | None, dtype: str | None) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
        self.model, self.tokenizer = load_policy_folder(folder, dtype=dtype, device=device)
        if self.tokenizer.chat_template is None:
            self.tokenizer.chat_template = PLAIN_TEMPLATE
        self.max_length = int(getattr(self.model.config, "max_position_embeddings", 1 << 20))

    def log_likelihoods(self, batch: Sequence[Turns]) -> list[tuple[float, int] | Failed]:
        """``(log p(response | prompt), tokens of the response)``, the end token included."""
        prompts = [conversation[:-1] for conversation in batch]
        responses = [encode_response(self.tokenizer, c[-1]["content"]) for c in batch]
        lengths = [
            len(encode_prompt(self.tokenizer, prompt)) + len(response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        kept = [n for n, length in enumerate(lengths) if length <= self.max_length]
        logprobs = response_logprobs(
            self.model, self.tokenizer, [prompts[n] for n in kept], [responses[n] for n in kept]
        )
        found: dict[int, tuple[float, int] | Failed] = {
            n: (float(values.double().sum()), len(values))
            for n, values in zip(kept, logprobs, strict=True)
        }
        limit = self.max_length
        return [
            found.get(n) or Failed(f"{length} tokens, the model reads at most {limit}")
            for n, length in enumerate(lengths)
        ]
