"""What a search uses besides data and configuration, and the identity it is resumed by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_harness.data.records import RankedPrompt
from reward_harness.hashing import digest_json
from reward_harness.llm.backends import backend_identity, resolve_backend, resolve_local_model
from reward_harness.llm.gateway import Caps
from reward_harness.llm.roles import ModelRoles, open_roles
from reward_harness.llm.verdicts import STORE_NAME
from reward_harness.progress import ProgressSink, quiet
from reward_harness.prompts import load_templates
from reward_harness.rubrics.search.problem import dataset_digest
from reward_harness.rubrics.search.state import Spent
from reward_harness.rubrics.types import Rubric
from reward_harness.sections import SearchConfig
from reward_harness.workspace import Workspace

OPERATIONAL = {"max_calls", "max_tokens", "max_usd"}
OPERATIONAL_ENDPOINT = {
    "base_url",
    "api_key_env",
    "timeout_s",
    "max_retries",
    "retry_backoff_base_s",
    "retry_backoff_max_s",
    "retry_jitter",
    "concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "fail_soft",
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a search uses besides its data and its configuration; only ``draw`` changes the result.

    Attributes:
        cache: folder of the verdict store; None keeps verdicts in memory only.
        verdict_store: the store's file, where it is not the one in ``cache``.
        prompts: folder of the templates; None means the built-in ones.
        preset: the rubric to start from instead of asking for one.
        presets: the same for single prompts, by prompt id; ``preset_of`` says which one counts.
        checkpoint: written after every generation, and read first if it is there.
        caps: what this session may spend.
        draw: another number has a model propose anew instead of from the verdict store.
        progress: told of every generation.
        stage: the name progress events carry.
    """

    cache: Path | None = None
    verdict_store: Path | None = None
    prompts: Path | None = None
    preset: Rubric | None = None
    presets: Mapping[str, Rubric] = field(default_factory=dict[str, Rubric])
    checkpoint: Path | None = None
    caps: Caps = field(default_factory=Caps)
    draw: int = 0
    progress: ProgressSink = quiet
    stage: str = "rubric_population"

    def preset_of(self, unit_id: str) -> Rubric | None:
        """The rubric that a unit starts from, if one is given."""
        return self.presets.get(unit_id, self.preset)

    @property
    def store(self) -> Path | None:
        """The verdict store's file; None for memory only."""
        if self.verdict_store is not None or self.cache is None:
            return self.verdict_store
        return self.cache / STORE_NAME


def open_search_roles(
    config: SearchConfig, around: Surroundings, spent: Spent | None = None
) -> ModelRoles | None:
    """The endpoint's roles for a search; None without a model. ``LLMError`` without a key.

    The session may spend what its own caps allow and what ``spent`` left of the configuration's.
    """
    backend = resolve_backend(config)
    if backend == "heuristic":
        return None
    templates = load_templates(around.prompts, config.locale)
    caps = left_to_spend(config, around, spent)
    if backend == "local":
        from reward_harness.llm.local import open_local_roles

        models = around.cache or Workspace.discover().cache
        local = resolve_local_model(config)
        roles = open_local_roles(local, templates, around.store, models, caps)
    else:
        roles = open_roles(config.endpoint, templates, around.store, caps)
    roles.draw = around.draw
    return roles


def left_to_spend(config: SearchConfig, around: Surroundings, spent: Spent | None) -> Caps:
    """The tighter of the session's caps and what is left of the configuration's."""
    before = spent or Spent()
    calls = None if config.max_calls is None else max(config.max_calls - before.calls, 0)
    usd = None if config.max_usd is None else max(config.max_usd - (before.usd or 0.0), 0.0)
    used = before.prompt_tokens + before.completion_tokens
    tokens = None if config.max_tokens is None else max(config.max_tokens - used, 0)
    given = around.caps
    return Caps(
        max_calls=min((n for n in (given.max_calls, calls) if n is not None), default=None),
        max_usd=min((n for n in (given.max_usd, usd) if n is not None), default=None),
        max_tokens=min((n for n in (given.max_tokens, tokens) if n is not None), default=None),
    )


def identity(
    records: Sequence[RankedPrompt], config: SearchConfig, seed: int, around: Surroundings
) -> tuple[str, str]:
    """Digests of the data and of all that decides the search's result."""
    settings: dict[str, Any] = config.model_dump(mode="json", exclude=OPERATIONAL)
    settings["endpoint"] = {
        k: v for k, v in settings["endpoint"].items() if k not in OPERATIONAL_ENDPOINT
    }
    backend = backend_identity(config)
    templates: dict[str, str] = {}
    if backend != "heuristic":
        loaded = load_templates(around.prompts, config.locale)
        templates = {role: template.digest for role, template in loaded.items()}
    preset = around.preset.digest if around.preset else None
    decisive = [settings, seed, backend, templates, preset]
    if around.presets:
        decisive.append({name: rubric.digest for name, rubric in around.presets.items()})
    return dataset_digest(records), digest_json(decisive)
