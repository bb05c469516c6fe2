"""The flags of ``harness search``: which setting each one sets, in which group, and what it means.

Type and default of a flag are those of its setting, so the two cannot drift apart; a flag's
``target`` is the dotted path of its setting in ``SearchConfig``.

    >>> config_of({"generations": 3, "llm_timeout": 5.0}).endpoint.timeout_s
    5.0
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from reward_harness.errors import SpecError
from reward_harness.sections import SearchConfig

BACKEND_ALIASES = {"llm": "openai", "mock": "heuristic"}
BackendName = Literal["auto", "openai", "local", "heuristic", "llm", "mock"]
SHARED_EXTRACTION = ("tag", "pattern", "group")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. ``opposite`` is what turns a setting off; ``variable`` may set it as well."""

    name: str
    target: str
    help: str
    opposite: str | None = None
    variable: str | None = None

    @property
    def key(self) -> str:
        """The flag as the name of a Python parameter."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def declaration(self) -> str:
        """The flag as typer wants it."""
        return f"{self.name}/{self.opposite}" if self.opposite else self.name


GROUPS: dict[str, tuple[Flag, ...]] = {
    "Search": (
        Flag("--mode", "mode", "population with mutations, or one rubric refined step by step"),
        Flag("--iterations", "iterations", "refinement steps (mode iterative)"),
        Flag("--generations", "generations", "generations (mode evolutionary)"),
        Flag("--population-size", "population_size", "rubrics kept from round to round"),
        Flag("--mutations-per-round", "mutations_per_round", "new rubrics in each generation"),
        Flag(
            "--mutation-parent-count", "mutation_parent_count", "rubrics that new ones derive from"
        ),
        Flag("--batch-size", "batch_size", "hard prompts that a generation works on"),
        Flag(
            "--evolution-iteration-scope",
            "scope",
            "one rubric for all prompts (shared), or one for each prompt: all on their own "
            "(prompt_local), or the hardest few a round (global_batch)",
        ),
        Flag(
            "--stop-when-distinguished",
            "stop_when_distinguished",
            "stop a prompt once its best response stands out (scope prompt_local)",
            opposite="--no-stop-when-distinguished",
        ),
        Flag("--distinguish-margin", "distinguish_margin", "how far it must stand out, in scores"),
        Flag("--survival-fraction", "survival_fraction", "share of the population that survives"),
        Flag("--elitism-count", "elitism_count", "best rubrics that nothing can crowd out"),
        Flag("--stagnation-generations", "stagnation_generations", "stop after so many in vain"),
        Flag("--votes", "votes", "times each grade is asked for; above 1, variance is measured"),
        Flag("--noise", "noise", "share of label preferences that are flipped, for experiments"),
    ),
    "Parents and mutation": (
        Flag("--selection-strategy", "selection_strategy", "how parents are chosen"),
        Flag("--tournament-size", "tournament_size", "rubrics in a tournament"),
        Flag("--tournament-p", "tournament_p", "chance that the better one wins a comparison"),
        Flag("--top-k-ratio", "top_k_ratio", "share of the population that top_k draws from"),
        Flag("--diversity-weight", "diversity_weight", "weight of being different, in top_k"),
        Flag("--adaptive-mutation", "adaptive_mutation", "how the mutation modes share the work"),
        Flag(
            "--mutation-window-size", "mutation_window_size", "results that success_feedback sees"
        ),
        Flag("--min-mutation-weight", "min_mutation_weight", "least weight of a mode there"),
        Flag(
            "--exploration-phase-ratio",
            "exploration_phase_ratio",
            "share of the generations that explore (exploration_decay)",
        ),
        Flag(
            "--diversity-threshold",
            "diversity_threshold",
            "population diversity above which modes refine (diversity_driven)",
        ),
        Flag(
            "--fit-weights",
            "fit_weights",
            "also fit weights to the graded pairs; costs no call",
            opposite="--no-fit-weights",
        ),
        Flag(
            "--semantic-operators",
            "semantic_operators",
            "use the refinement kinds beyond the six basic modes",
            opposite="--no-semantic-operators",
        ),
        Flag(
            "--racing",
            "racing",
            "grade new rubrics on few prompts first, and only good ones on all",
            opposite="--no-racing",
        ),
    ),
    "Objective": (
        Flag("--tail-fraction", "tail_fraction", "top share of the responses that is looked at"),
        Flag("--lambda-var", "lambda_var", "penalty on the variance between votes"),
        Flag("--mu-diverse", "mu_diverse", "bonus for right pairs of different sources"),
        Flag(
            "--pair-confidence-prior", "pair_confidence_prior", "pulls few pairs towards one half"
        ),
    ),
    "Start": (
        Flag(
            "--initializer-strategy",
            "initializer_strategy",
            "ask the backend for first rubrics, or start from --preset-rubrics",
        ),
        Flag("--preset-rubrics", "preset_rubric", "file of rubrics to start from; implies preset"),
        Flag("--preset-strict", "preset_strict", "a prompt that the preset file lacks is an error"),
    ),
    "Extraction": (
        Flag("--extract-strategy", "extract.strategy", "which part of a prompt is looked at"),
        Flag("--extract-tag", "extract.tag", "the tag, for strategy tag (prompts and responses)"),
        Flag("--extract-pattern", "extract.pattern", "the regular expression, for strategy regex"),
        Flag("--extract-group", "extract.group", "its group; 0 is the whole match"),
        Flag("--extract-join-separator", "extract.join_separator", "between several matches"),
        Flag(
            "--candidate-extract-strategy",
            "candidate_extract.strategy",
            "the same for responses",
        ),
        Flag(
            "--candidate-extract-join-separator",
            "candidate_extract.join_separator",
            "between several matches in a response",
        ),
    ),
    "Backend and endpoint": (
        Flag(
            "--backend",
            "backend",
            "who grades and proposes; auto is openai where a key is set, else heuristic "
            "(llm = openai, mock = heuristic)",
        ),
        Flag("--api-key-env", "endpoint.api_key_env", "name of the variable that holds the key"),
        Flag(
            "--base-url", "endpoint.base_url", "OpenAI-compatible endpoint", variable="LLM_BASE_URL"
        ),
        Flag("--model-default", "endpoint.model", "model of every role", variable="LLM_MODEL"),
        Flag("--model-initializer", "endpoint.role_models.initializer", "model for first rubrics"),
        Flag("--model-proposer", "endpoint.role_models.proposer", "model for changed rubrics"),
        Flag("--model-verifier", "endpoint.role_models.verifier", "model for grades"),
        Flag("--model-judge", "endpoint.role_models.judge", "model for comparing responses"),
        Flag("--prompt-language", "locale", "language of the prompt templates: en or zh"),
        Flag("--llm-temperature", "endpoint.temperature", "sampling temperature"),
        Flag("--reasoning-effort", "endpoint.reasoning_effort", "as the endpoint names it"),
        Flag(
            "--thinking-type",
            "endpoint.extra_body.thinking.type",
            'sends {"thinking": {"type": …}}, for endpoints that know it',
        ),
        Flag("--llm-timeout", "endpoint.timeout_s", "seconds to wait for an answer"),
        Flag("--llm-max-retries", "endpoint.max_retries", "further attempts after a failure"),
        Flag("--llm-retry-backoff-base", "endpoint.retry_backoff_base_s", "first wait, in seconds"),
        Flag("--llm-retry-backoff-max", "endpoint.retry_backoff_max_s", "longest wait, in seconds"),
        Flag("--llm-retry-jitter", "endpoint.retry_jitter", "random share of a wait"),
        Flag(
            "--llm-fail-soft",
            "endpoint.fail_soft",
            "an endpoint that stays away sets verdicts aside instead of ending the search",
        ),
        Flag("--concurrency", "endpoint.concurrency", "requests in flight"),
        Flag("--requests-per-minute", "endpoint.requests_per_minute", "rate limit to keep"),
        Flag("--tokens-per-minute", "endpoint.tokens_per_minute", "rate limit to keep"),
        Flag("--max-calls", "max_calls", "stop after so many requests, resumably"),
        Flag("--max-tokens", "max_tokens", "stop after so many tokens, resumably"),
        Flag("--max-usd", "max_usd", "stop at this cost, where the endpoint reports one"),
    ),
}
FLAGS: tuple[Flag, ...] = tuple(flag for flags in GROUPS.values() for flag in flags)


def setting_of(flag: Flag) -> tuple[Any, Any]:
    """(type, default) of the setting behind a flag; entries of free-form settings are texts."""
    if flag.target == "backend":
        return BackendName, SearchConfig.model_fields["backend"].default
    value: Any = SearchConfig()
    annotation: Any = None
    for name in flag.target.split("."):
        if not isinstance(value, BaseModel):
            return str | None, None
        annotation = type(value).model_fields[name].annotation
        value = getattr(value, name)
    return annotation, value


def config_of(values: Mapping[str, Any]) -> SearchConfig:
    """The configuration that the flags' values (by ``Flag.key``) say; ``SpecError`` names a flag.

    Responses are extracted with the tag, pattern and group that the flags for prompts name.
    """
    body: dict[str, Any] = {}
    for flag in FLAGS:
        value = values.get(flag.key)
        if value is not None:
            _put(body, flag.target.split("."), value)
    if (backend := body.get("backend")) is not None:
        body["backend"] = BACKEND_ALIASES.get(backend, backend)
    for name in SHARED_EXTRACTION:
        if name in body.get("extract", {}):
            _put(body, ["candidate_extract", name], body["extract"][name])
    if "preset_rubric" in body:
        body["initializer_strategy"] = "preset"
    elif body.get("initializer_strategy") == "preset":
        raise SpecError(
            "which rubrics?", where="--initializer-strategy preset", fix="Name --preset-rubrics."
        )
    try:
        config = SearchConfig.model_validate(body)
    except ValidationError as error:
        raise _flag_error(error) from error
    _check_key_variable(config)
    return config


def _put(body: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        body = body.setdefault(name, {})
    body[path[-1]] = value


def _check_key_variable(config: SearchConfig) -> None:
    variable = config.endpoint.api_key_env
    # a key given for the variable's name must not be repeated in any message or file
    if not VARIABLE_NAME.fullmatch(variable) or not (variable.isupper() or variable in os.environ):
        raise SpecError(
            "not the name of an environment variable",
            where="--api-key-env",
            expected="a name such as LLM_API_KEY, never the key itself",
        )


def _flag_error(error: ValidationError) -> SpecError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    named = [f.name for f in FLAGS if f.target == path]
    within = [f.name for f in FLAGS if f.target.startswith(f"{path}.")]
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    scalar = isinstance(first["input"], str | int | float)
    return SpecError(
        "not a valid value" if scalar else "these flags do not fit together",
        where=(named or within[:1] or [path])[0],
        got=first["input"] if scalar else None,
        expected=rule,
    )
