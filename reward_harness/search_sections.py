"""The settings of a rubric search: endpoint, extraction, algorithm; defaults are the original
method's.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from reward_harness.manifest import Fraction, Frozen
from reward_harness.model_spec import ModelSpec


class Endpoint(Frozen):
    """An OpenAI-compatible endpoint; the key itself is only ever read from the named variable."""

    base_url: str = "https://openrouter.ai/api/v1"
    api_key_env: str = "LLM_API_KEY"
    model: str = "stepfun/step-3.5-flash:free"
    role_models: dict[str, str] = Field(default_factory=dict)
    temperature: float = 0.0
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="further fields of every request, as the endpoint has them",
    )
    timeout_s: float = Field(default=30.0, gt=0)
    max_retries: int = Field(default=2, ge=0)
    retry_backoff_base_s: float = Field(default=0.5, ge=0)
    retry_backoff_max_s: float = Field(default=8.0, ge=0)
    retry_jitter: Fraction = Field(default=0.2, ge=0, lt=1)
    concurrency: int = Field(default=64, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    fail_soft: bool = Field(
        default=False, description="an endpoint that stays away sets verdicts aside, not the search"
    )


class Extraction(Frozen):
    """Which part of a text is looked at; where nothing matches, or only blanks, all of it.

    ``tag``: the content of ``<tag>…</tag>``, case-insensitive; ``regex``: ``group`` of ``pattern``;
    ``answer``: ``<answer>…</answer>``, else the text without ``<think>…</think>``. Several matches
    are joined with ``join_separator``.
    """

    strategy: Literal["identity", "tag", "regex", "answer"] = "identity"
    tag: str = "content"
    pattern: str | None = None
    group: int = Field(default=0, ge=0)
    join_separator: str = "\n\n"

    @model_validator(mode="after")
    def _pattern_fits(self) -> Extraction:
        if self.strategy != "regex":
            return self
        if self.pattern is None:
            raise ValueError("strategy regex needs a `pattern`")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern: {error}") from error
        if self.group > groups:
            raise ValueError(f"pattern has {groups} groups, group {self.group} was asked for")
        return self


class GradedParts(Frozen):
    """Which part of a prompt and of a response graders see."""

    prompt: Extraction = Extraction()
    response: Extraction = Extraction()


class SearchConfig(Frozen):
    """How rubrics are searched (rubric-search spec); defaults are the original method's."""

    mode: Literal["evolutionary", "iterative"] = "evolutionary"
    backend: Literal["auto", "openai", "local", "heuristic"] = "auto"
    endpoint: Endpoint = Endpoint()
    local_model: ModelSpec | None = Field(
        default=None, description="of backend local; without one, the small model of the package"
    )
    locale: str = "en"
    scope: Literal["global_batch", "prompt_local", "shared"] = "shared"
    iterations: int = Field(default=6, ge=1)
    generations: int = Field(default=12, ge=1)
    population_size: int = Field(default=8, ge=2)
    mutations_per_round: int = Field(default=6, ge=1)
    mutation_parent_count: int = Field(default=3, ge=1)
    batch_size: int = Field(default=3, ge=1)
    survival_fraction: Fraction = Field(default=0.2, gt=0, le=1)
    elitism_count: int = Field(default=2, ge=0)
    stagnation_generations: int = Field(default=6, ge=1)
    stop_when_distinguished: bool = Field(
        default=True, description="scope prompt_local: stop a prompt whose top margin is reached"
    )
    distinguish_margin: float = Field(default=0.25, ge=0)
    selection_strategy: Literal["rank", "tournament", "top_k"] = "rank"
    tournament_size: int = Field(default=3, ge=1)
    tournament_p: Fraction = Field(default=0.8, gt=0, le=1)
    top_k_ratio: Fraction = Field(default=0.3, gt=0, le=1)
    diversity_weight: Fraction = Field(default=0.3, ge=0, le=1)
    adaptive_mutation: Literal[
        "fixed", "success_feedback", "exploration_decay", "diversity_driven"
    ] = "fixed"
    mutation_window_size: int = Field(default=10, ge=1)
    min_mutation_weight: Fraction = Field(default=0.1, ge=0, lt=1)
    exploration_phase_ratio: Fraction = Field(default=0.3, ge=0, le=1)
    diversity_threshold: float = Field(default=0.05, ge=0, le=1)
    fit_weights: bool = True
    semantic_operators: bool = Field(
        default=True, description="the refinement kinds beyond the six basic mutation modes"
    )
    racing: bool = Field(
        default=True, description="grade a child on few prompts first, and only good ones on all"
    )
    tail_fraction: Fraction = Field(default=0.25, gt=0, le=1)
    lambda_var: float = Field(default=0.2, ge=0)
    mu_diverse: float = Field(default=0.25, ge=0)
    pair_confidence_prior: float = Field(default=8.0, ge=0)
    votes: int = Field(default=1, ge=1)
    initializer_strategy: Literal["backend", "preset"] = "backend"
    preset_rubric: str | None = Field(
        default=None, description="a rubric file, relative to the project, that starts the search"
    )
    preset_strict: bool = Field(
        default=False, description="a prompt that the preset file lacks is an error"
    )
    noise: Fraction = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="share of label preferences flipped",
    )
    extract: Extraction = Field(default=Extraction(), description="of each prompt")
    candidate_extract: Extraction = Field(default=Extraction(), description="of each response")
    max_calls: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_usd: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _a_preset_has_a_file(self) -> SearchConfig:
        if self.initializer_strategy == "preset" and self.preset_rubric is None:
            raise ValueError("initializer_strategy preset needs a preset_rubric")
        return self
