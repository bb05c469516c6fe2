"""The dataset section of an experiment file: which sources and which models make the data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reward_harness.manifest import Fraction, Frozen


class ConfidenceFilter(Frozen):
    """Which preference pairs are clear enough to train on; ``data.confidence`` says how."""

    by: Literal["proxy", "margin", "random"] = Field(
        default="proxy", description="random: as many pairs by lot, the control of a study"
    )
    keep: Fraction | None = Field(default=None, gt=0, le=1, description="top share of the pairs")
    threshold: float | None = Field(default=None, ge=0, description="or all that reach this")
    stratify: Literal["none", "source", "length"] = "none"

    @model_validator(mode="after")
    def _one_rule(self) -> ConfidenceFilter:
        if (self.keep is None) == (self.threshold is None):
            raise ValueError("give either keep or threshold")
        return self


class MixPart(Frozen):
    """Another source and its share of the mixture, as a weight."""

    source: str
    weight: float = Field(ge=0, description="0: only held out, never trained on")


class SourceUse(Frozen):
    """A dataset source (``data/sources/<source>.yaml``) and how much of it to take."""

    source: str
    limit: int | None = Field(default=None, ge=1, description="first N prompts in the seeded order")
    pairs: Literal["all", "adjacent"] = Field(
        default="all", description="which ranked candidates become pairs, where a stage needs pairs"
    )
    train_limit: int | None = Field(
        default=None, ge=1, description="likewise, of the training split alone"
    )
    weight: float = Field(default=1.0, ge=0, description="of this source in a mixture")
    mix: list[MixPart] = Field(default_factory=list[MixPart], description="further sources")
    confidence: ConfidenceFilter | None = Field(
        default=None, description="for preferences: which training pairs are kept"
    )

    @model_validator(mode="after")
    def _something_is_trained_on(self) -> SourceUse:
        if not any([self.weight, *(part.weight for part in self.mix)]):
            raise ValueError("at least one weight of the mixture must be above 0")
        return self


class AIPreferencesSection(Frozen):
    """Preferences of a judge that reads a constitution, on two samples of the SFT policy."""

    prompts: int = Field(default=64, ge=2, description="prompts, in the seeded order")
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.9, gt=0)
    min_confidence: Literal["low", "medium", "high"] = "medium"


class SyntheticSFTSection(Frozen):
    """Drafts that are critiqued and revised under the constitution."""

    prompts: int = Field(default=64, ge=2, description="prompts, in the seeded order")
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.7, gt=0)


class RLSamplesSection(Frozen):
    """A batch of a policy's responses, to be scored."""

    policy: Literal["sft", "dpo"] = "sft"
    prompts: int = Field(default=64, ge=2, description="prompts, in the seeded order")
    samples_per_prompt: int = Field(default=4, ge=2)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.9, gt=0)


class ScoresSection(Frozen):
    """How the searched rubric scores the samples."""

    repeats: int = Field(default=5, ge=1, description="gradings of each response")
    max_unscored_share: Fraction = Field(default=0.1, description="above it the stage stops")


class DistilledSection(Frozen):
    """Which two scored responses make a pair."""

    min_margin: float = Field(default=0.15, ge=0, description="of the range of all scores")
    noise_factor: float = Field(default=1.0, ge=0, description="times the sum of both spreads")
    max_pairs_per_prompt: int = Field(default=4, ge=1)


class SplitSpec(Frozen):
    """Shares of prompts held out; the rest trains. A prompt's split depends on its text and the
    seed only.
    """

    validation: Fraction = Field(default=0.1, ge=0, lt=1)
    test: Fraction = Field(default=0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitSpec:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must stay below 1, or nothing is left to train on")
        return self


class DatasetSection(Frozen):
    """Which source feeds which dataset stage."""

    preferences: SourceUse | None = None
    ranked: SourceUse | None = None
    sft: SourceUse | None = None
    rl_prompts: SourceUse | None = None
    reasoning: SourceUse | None = None
    ai_preferences: AIPreferencesSection | None = None
    synthetic_sft: SyntheticSFTSection | None = None
    rl_samples: RLSamplesSection | None = None
    scores: ScoresSection | None = None
    distilled: DistilledSection | None = None
    split: SplitSpec = SplitSpec()
