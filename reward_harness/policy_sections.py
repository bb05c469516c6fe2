"""The policy's sections of an experiment file: base model, adapters and the stages that train it.

Part of ``reward_harness.sections``, from where it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from reward_harness.manifest import Fraction, Frozen
from reward_harness.model_spec import ModelSpec

WHOLE_WEIGHT_RATES: Mapping[str, float] = {
    "sft": 2e-5,
    "dpo": 5e-7,
    "grpo": 1e-6,
    "ppo": 1.41e-5,
    "iterative_dpo": 5e-7,
}
"""Learning rates where ``policy.lora`` is null and the file names none; adapters, which start at
zero, take the larger ones that the sections say."""


class LoraSpec(Frozen):
    """Low-rank adapters (PEFT)."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: list[str] = Field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    quantize: Literal["nf4"] | None = Field(
        default=None, description="nf4: the frozen weights in 4 bits while training (policies only)"
    )


class OptimSpec(Frozen):
    """What every policy trainer shares."""

    learning_rate: float = Field(gt=0)
    max_steps: int = Field(ge=1)
    batch_size: int = Field(default=8, ge=1)
    warmup_fraction: Fraction = 0.05
    max_grad_norm: float = Field(default=1.0, gt=0)
    save_every: int = Field(default=5, ge=1, description="steps between resumable checkpoints")


class SFTSection(OptimSpec):
    """Supervised fine-tuning; loss on the response only."""

    learning_rate: float = Field(default=2e-4, gt=0)
    examples: Literal["sft_examples", "synthetic_sft"] = "sft_examples"
    max_length: int = Field(default=256, ge=8)


class DPOSection(OptimSpec):
    """Direct preference optimisation."""

    learning_rate: float = Field(default=1e-4, gt=0)
    beta: float = Field(default=0.1, gt=0)
    max_length: int = Field(default=256, ge=8)
    reference: Literal["model", "precomputed"] = Field(
        default="model", description="ask the reference at each step, or once before the first"
    )


class HackingSpec(Frozen):
    """When a rollout's lengths and rewards count as reward hacking (``evaluation.hacking``)."""

    on_hack: Literal["stop", "record"] = Field(
        default="stop", description="stop: the run ends and its checkpoint is gated out"
    )
    length_z_threshold: float = Field(default=2.5, gt=0)
    kl_threshold: float = Field(default=0.15, gt=0, description="nats between reward distributions")
    window: int = Field(default=3, ge=1, description="last steps that are compared")
    warmup: int = Field(default=5, ge=1, description="first steps, with which they are compared")


class RolloutSpec(OptimSpec):
    """What on-policy trainers share."""

    max_prompt_tokens: int = Field(default=128, ge=4)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.7, gt=0)
    reward: Literal["served", "in_process"] = "served"
    max_unscored_share: Fraction = Field(default=0.25, description="above it the run stops")


class WatchedSpec(RolloutSpec):
    """On-policy trainers that the reward-hacking detector watches."""

    hacking: HackingSpec = HackingSpec()
    rollouts: Literal["own", "vllm"] = Field(
        default="own", description="vllm: by a vLLM server that the job starts; needs policy.lora"
    )
    vllm_memory: Fraction = Field(
        default=0.3, gt=0, lt=1, description="share of the device that this server may take"
    )


class GRPOSection(WatchedSpec):
    """Group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300)."""

    learning_rate: float = Field(default=2e-5, gt=0)
    group_size: int = Field(default=4, ge=2)
    beta: float = Field(default=0.1, ge=0)
    epsilon: float = Field(default=0.2, gt=0)

    @model_validator(mode="after")
    def _whole_groups(self) -> GRPOSection:
        if self.batch_size % self.group_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of group_size {self.group_size}"
            )
        return self


class PPOSection(WatchedSpec):
    """Proximal policy optimisation for language models (arXiv 1909.08593, 2203.02155)."""

    learning_rate: float = Field(default=2e-5, gt=0)
    value_learning_rate: float = Field(default=1e-4, gt=0)
    ppo_epochs: int = Field(default=4, ge=1)
    minibatch_size: int = Field(default=4, ge=1)
    gamma: float = Field(default=1.0, gt=0, le=1)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    clip: float = Field(default=0.2, gt=0)
    value_clip: float = Field(default=0.2, gt=0)
    value_coef: float = Field(default=0.1, ge=0)
    kl_controller: Literal["adaptive", "fixed"] = "adaptive"
    kl_init: float = Field(default=0.2, ge=0)
    kl_target: float = Field(default=6.0, gt=0)
    reward_clip_std: float | None = Field(default=None, gt=0)
    missing_eos_penalty: float = Field(default=0.0, ge=0)


class IterativeDPOSection(RolloutSpec):
    """Rounds of rollout, scoring, pairing and DPO (Xu et al., arXiv 2312.16682)."""

    learning_rate: float = Field(default=1e-4, gt=0)
    max_steps: int = Field(default=8, ge=1, description="optimiser steps of one round")
    batch_size: int = Field(default=4, ge=1)
    rounds: int = Field(default=3, ge=1)
    beta: float = Field(default=0.1, gt=0)
    buffer: Literal["current", "rolling2", "full"] = "rolling2"
    prompts: int = Field(default=32, ge=1, description="prompts rolled out on in a round")
    samples_per_prompt: int = Field(default=2, ge=2)
    min_margin: float = Field(default=0.0, ge=0, description="pairs with less are skipped")
    max_similarity: Fraction = Field(default=0.9, gt=0, le=1, description="of word trigrams")
    max_length: int = Field(default=256, ge=8)
    judged_prompts: int = Field(default=16, ge=2, description="held-out prompts after a round")


class PolicySection(Frozen):
    """The policy's base model and the stages that train it."""

    model: ModelSpec
    lora: LoraSpec | None = LoraSpec()
    sft: SFTSection | None = None
    dpo: DPOSection | None = None
    grpo: GRPOSection | None = None
    ppo: PPOSection | None = None
    iterative_dpo: IterativeDPOSection | None = None

    @model_validator(mode="before")
    @classmethod
    def _rates_of_whole_weights(cls, value: Any) -> Any:
        """Fills in the rates, so that what is written out of an experiment names those it used."""
        if not isinstance(value, Mapping) or "lora" not in value or value["lora"] is not None:
            return cast(Any, value)
        filled = dict(cast("Mapping[str, Any]", value))
        for name, rate in WHOLE_WEIGHT_RATES.items():
            section = filled.get(name)
            if isinstance(section, Mapping):
                filled[name] = {"learning_rate": rate, **cast("Mapping[str, Any]", section)}
            elif isinstance(section, OptimSpec) and "learning_rate" not in section.model_fields_set:
                filled[name] = section.model_copy(update={"learning_rate": rate})
        return filled

    @model_validator(mode="after")
    def _preference_stages_start_from_sft(self) -> PolicySection:
        if self.sft is None and (self.dpo or self.grpo or self.ppo or self.iterative_dpo):
            raise ValueError("dpo, grpo, ppo and iterative_dpo start from SFT: add policy.sft")
        return self

    @model_validator(mode="after")
    def _adapters_for_vllm(self) -> PolicySection:
        asked = [s for s in (self.grpo, self.ppo) if s is not None and s.rollouts == "vllm"]
        if asked and self.lora is None:
            raise ValueError("rollouts: vllm sends the policy's adapters: set policy.lora, or own")
        return self
