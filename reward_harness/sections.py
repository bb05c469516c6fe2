"""The sections of an experiment file: every hyper-parameter of every stage, with its default.

A subsection that is absent or null switches its stage off. Cross-field rules live beside the
fields they bind.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reward_harness.dataset_sections import AIPreferencesSection as AIPreferencesSection
from reward_harness.dataset_sections import ConfidenceFilter as ConfidenceFilter
from reward_harness.dataset_sections import DatasetSection as DatasetSection
from reward_harness.dataset_sections import DistilledSection as DistilledSection
from reward_harness.dataset_sections import MixPart as MixPart
from reward_harness.dataset_sections import RLSamplesSection as RLSamplesSection
from reward_harness.dataset_sections import ScoresSection as ScoresSection
from reward_harness.dataset_sections import SourceUse as SourceUse
from reward_harness.dataset_sections import SplitSpec as SplitSpec
from reward_harness.dataset_sections import SyntheticSFTSection as SyntheticSFTSection
from reward_harness.manifest import Fraction, Frozen
from reward_harness.model_spec import ModelSpec as ModelSpec
from reward_harness.policy_sections import DPOSection as DPOSection
from reward_harness.policy_sections import GRPOSection as GRPOSection
from reward_harness.policy_sections import HackingSpec as HackingSpec
from reward_harness.policy_sections import IterativeDPOSection as IterativeDPOSection
from reward_harness.policy_sections import LoraSpec as LoraSpec
from reward_harness.policy_sections import OptimSpec as OptimSpec
from reward_harness.policy_sections import PolicySection as PolicySection
from reward_harness.policy_sections import PPOSection as PPOSection
from reward_harness.policy_sections import RolloutSpec as RolloutSpec
from reward_harness.policy_sections import SFTSection as SFTSection
from reward_harness.policy_sections import WatchedSpec as WatchedSpec
from reward_harness.search_sections import Endpoint as Endpoint
from reward_harness.search_sections import Extraction as Extraction
from reward_harness.search_sections import SearchConfig as SearchConfig


class GateThresholds(Frozen):
    """When a reward may be served; a result beyond its threshold rejects the artifact.

    Rises are in standard deviations of the reward's held-out scores.
    """

    enforce: bool = Field(
        default=True, description="false: failed gates are recorded and bar only target prod"
    )
    min_heldout_agreement: float = Field(default=0.5, description="lower bound must exceed it")
    max_master_key_margin: float = Field(default=0.0, description="worst answer against the median")
    max_null_response_margin: float = Field(default=0.0, description="likewise")
    max_length_padding_std: float = 0.1
    max_injection_rise: float = Field(default=0.0, description="upper bound of the mean rise")
    max_unscored_share: Fraction = 0.02
    min_swap_consistency: Fraction = Field(
        default=0.8, description="held-out pairs that the judge decides alike in both orders"
    )
    incumbent: str | None = Field(
        default=None,
        description="experiment/rm_artifact/digest whose held-out agreement must be exceeded too",
    )
    heldout_prompts: int = Field(default=256, ge=2, description="test prompts scored for agreement")
    attacked_responses: int = Field(
        default=48, ge=2, description="responses each attack is tried on"
    )


class RewardOptim(Frozen):
    """What every trained reward model shares: backbone, head and optimiser."""

    backbone: ModelSpec
    lora: LoraSpec | None = Field(default=None, description="null trains the whole backbone")
    learning_rate: float = Field(default=1e-5, gt=0)
    head_learning_rate: float = Field(default=1e-3, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(
        default=None,
        ge=0,
        description="0: the head is solved on the frozen backbone, and that is it",
    )
    batch_size: int = Field(default=8, ge=1)
    max_length: int = Field(default=512, ge=8, le=512)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_fraction: Fraction = 0.05

    @model_validator(mode="after")
    def _backbone_is_whole(self) -> RewardOptim:
        if self.lora is not None and self.lora.quantize is not None:
            raise ValueError("lora.quantize is for policies: a reward model's backbone stays whole")
        return self


class FlywheelSection(Frozen):
    """Cycles of filter and training: the pairs that the last model is surest of train the next."""

    cycles: int = Field(default=1, ge=1, description="trainings after the one on all pairs")
    keep: Fraction = Field(default=0.5, gt=0, le=1, description="top share of all pairs, each time")
    stratify: Literal["none", "source", "length"] = "none"


class BTSection(RewardOptim):
    """Bradley-Terry reward model training."""

    pairs: Literal["preference_pairs", "ai_preferences"] = Field(
        default="preference_pairs", description="what it is trained on; never what it is held to"
    )
    init: Literal["base", "sft_checkpoint"] = Field(
        default="base", description="sft_checkpoint: the experiment's own policy after SFT"
    )
    margin: bool = Field(default=False, description="r_c is to exceed r_r by the pair's margin")
    center_rewards: float = Field(default=0.0, ge=0, description="coefficient of (r_c + r_r)^2")
    reads: Literal["conversation", "last_turn"] = Field(
        default="conversation", description="last_turn: only the message that is answered"
    )
    flywheel: FlywheelSection | None = Field(
        default=None, description="train again on what the model is sure of"
    )


class RubricModelSection(RewardOptim):
    """A reward model that learns the searched rubric's scores by regression."""

    max_unscored_share: Fraction = Field(default=0.1, description="above it the stage stops")


class EnsembleSection(BTSection):
    """Bradley-Terry models that differ in their seed, and the price of their disagreement."""

    members: int = Field(default=3, ge=2, le=16)
    penalty: float = Field(default=0.5, ge=0, description="lambda of mean - lambda * std")

    @model_validator(mode="after")
    def _no_flywheel(self) -> EnsembleSection:
        if self.flywheel is not None:
            raise ValueError("the flywheel is for one model: give it to reward_model.bt")
        return self


class ProcessSection(RewardOptim):
    """A process reward model on labelled steps, and its twin that sees whole solutions only."""

    match_positions: bool = Field(
        default=True, description="as many wrong as right steps at every position"
    )
    outcome_twin: bool = True
    aggregation: Literal["min", "prod", "last", "mean"] = "min"
    false_flag_rate: Fraction = Field(default=0.1, gt=0, lt=1)


Served = Literal[
    "rubric",
    "classifier",
    "rubric_model",
    "ensemble",
    "process",
    "distilled",
    "composite",
    "answers",
]


class CompositeWeights(Frozen):
    """A classifier's squashed reward with a programmatic and a conciseness rule beside it."""

    learned: float = Field(default=0.6, ge=0)
    programmatic: float = Field(default=0.2, ge=0)
    concise: float = Field(default=0.2, ge=0)

    @model_validator(mode="after")
    def _one_counts(self) -> CompositeWeights:
        if self.learned + self.programmatic + self.concise <= 0:
            raise ValueError("at least one weight must be above 0")
        return self


class RewardModelSection(Frozen):
    """Which reward the experiment serves, how it is gated and where it is deployed."""

    serve: Served = "rubric"
    deploy_target: Literal["dev", "staging", "prod"] = "dev"
    on_drift: Literal["notify", "redeploy"] = "notify"
    gates: GateThresholds = GateThresholds()
    composite: CompositeWeights = CompositeWeights()
    bt: BTSection | None = None
    rubric: RubricModelSection | None = None
    ensemble: EnsembleSection | None = None
    process: ProcessSection | None = None
    distilled: BTSection | None = None


class EvaluationSection(Frozen):
    """How policies and rewards are measured."""

    prompts: int = Field(default=32, ge=2, description="held-out prompts for each policy")
    samples_per_prompt: int = Field(default=1, ge=1)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.7, gt=0)
    graded: list[str] = Field(
        default_factory=list[str],
        description="sources of graded responses (data/sources) on which rewards are measured, too",
    )
    bootstrap_samples: int = Field(default=2000, ge=100)
    confidence: Fraction = Field(default=0.95, gt=0.5, lt=1)


TrackerName = Literal["trackio", "tensorboard", "wandb", "mlflow"]


class ComputeSection(Frozen):
    """Where and how precisely training runs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    launcher: Literal["inline", "local", "accelerate"] = "local"
    processes: int = Field(default=1, ge=1, description="of the launcher `accelerate`: SFT, DPO")
    sharding: Literal["replicated", "full_shard"] = Field(
        default="replicated", description="each process holds the model (DDP) or a part (FSDP2)"
    )
    train_dtype: Literal["float32", "bfloat16"] = "float32"
    generation_dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = Field(default=None, ge=1)
    report_to: TrackerName | None = Field(
        default=None, description="tracker that gets every training step's numbers, too"
    )
    memory_fraction: Fraction = Field(
        default=0.9, gt=0, le=1, description="share a job may plan to use"
    )
