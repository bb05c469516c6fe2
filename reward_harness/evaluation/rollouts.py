"""Responses of trained policies to held-out prompts, one model in memory at a time.

Responses are sampled in the experiment's generation precision. Log-probabilities are measured in
float32 whatever that is: at bf16 the rounding of two nearly equal models would drown their KL.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from reward_harness.data.records import RLPrompt
from reward_harness.evaluation.policies import PolicyOutput, Sample
from reward_harness.evaluation.results import Sampling
from reward_harness.hashing import derive_seed
from reward_harness.models.embedded import load_policy_folder
from reward_harness.models.generation import Generated, generate, response_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_SIZE = 16
Turns = list[dict[str, str]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A policy to sample from: its name, its model folder and the digest of its artifact."""

    name: str
    folder: Path
    digest: str


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What every policy is asked, and how."""

    prompts: Sequence[RLPrompt]
    sampling: Sampling
    device: str
    seed: int

    def turns(self) -> list[Turns]:
        """Each prompt's messages, repeated for each sample, prompts in order each time."""
        once = [[{"role": m.role, "content": m.content} for m in p.prompt] for p in self.prompts]
        return once * self.sampling.samples_per_prompt


def roll_out(
    checkpoints: Sequence[Checkpoint],
    reference: str,
    plan: RolloutPlan,
    tell: Callable[[str], None],
) -> tuple[list[PolicyOutput], dict[str, float]]:
    """Responses of every checkpoint with their log ratio to the reference, and seconds by step.

    The reference is loaded last, so that it measures everybody's responses in one visit.
    """
    seconds: dict[str, float] = {}
    responses: dict[str, list[Generated]] = {}
    logprobs: dict[str, list[float]] = {}
    others = [c for c in checkpoints if c.name != reference]
    for checkpoint in others:
        start = time.monotonic()
        tell(f"{checkpoint.name}: sampling")
        responses[checkpoint.name] = _sample(checkpoint.folder, plan)
        logprobs |= _measure(checkpoint.folder, plan, {checkpoint.name: responses[checkpoint.name]})
        seconds[checkpoint.name] = time.monotonic() - start
    start = time.monotonic()
    base = next(c for c in checkpoints if c.name == reference)
    tell(f"{reference}: sampling, and measuring all responses")
    under_reference = _measure(base.folder, plan, responses)
    responses[reference] = _sample(base.folder, plan)
    seconds[reference] = time.monotonic() - start
    outputs = [
        _output(c, plan, responses[c.name], logprobs.get(c.name), under_reference.get(c.name))
        for c in checkpoints
    ]
    return outputs, seconds


def _sample(folder: Path, plan: RolloutPlan) -> list[Generated]:
    """One response for each of ``plan.turns()``; the policies share the sampling seed."""

    def use(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Generated]:
        return generate(
            model,
            tokenizer,
            plan.turns(),
            max_new_tokens=plan.sampling.max_new_tokens,
            temperature=plan.sampling.temperature,
            seed=derive_seed(plan.seed, "policy_report"),
            batch_size=BATCH_SIZE,
        )

    return _with_model(folder, plan.sampling.dtype, plan.device, use)


def _measure(
    folder: Path, plan: RolloutPlan, responses: Mapping[str, list[Generated]]
) -> dict[str, list[float]]:
    """Σ log p of each response, for every author, in float32."""
    if not responses:
        return {}
    turns = plan.turns()

    def use(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[float]]:
        return {
            name: [
                float(row.double().sum())
                for row in response_logprobs(
                    model, tokenizer, turns, [r.token_ids for r in written]
                )
            ]
            for name, written in responses.items()
        }

    return _with_model(folder, "float32", plan.device, use)


def _with_model(
    folder: Path,
    dtype: str,
    device: str,
    use: Callable[[PreTrainedModel, PreTrainedTokenizerBase], T],
) -> T:
    """``use`` the model, then give its memory back."""
    model, tokenizer = load_policy_folder(folder, dtype=dtype, device=device)
    try:
        return use(model, tokenizer)
    finally:
        del model
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def _output(
    checkpoint: Checkpoint,
    plan: RolloutPlan,
    responses: Sequence[Generated],
    own: Sequence[float] | None,
    reference: Sequence[float] | None,
) -> PolicyOutput:
    known = own is not None and reference is not None
    ratios = [a - b for a, b in zip(own or (), reference or (), strict=True)] if known else None
    prompts = list(plan.prompts) * plan.sampling.samples_per_prompt
    samples = [
        Sample(
            prompt_id=prompt.prompt_id,
            prompt=prompt.prompt,
            text=response.text,
            tokens=len(response.token_ids),
            ended=response.ended,
            log_ratio=None if ratios is None else ratios[index],
        )
        for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    return PolicyOutput(checkpoint.name, checkpoint.digest, samples)
