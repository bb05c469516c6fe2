"""Which change of a job's settings, alone, would make it fit: found by estimating it again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_harness.scaling.memory import estimate
from reward_harness.sections import LoraSpec, RewardOptim
from reward_harness.training.workload import JobFacts, lora_of, workload_of

if TYPE_CHECKING:
    from reward_harness.training.job import AnyJob

ATTENTION = (
    LoraSpec().targets,
    ["query", "key", "value"],
    ["q_lin", "k_lin", "v_lin"],
    ["query_proj", "key_proj", "value_proj"],
    ["c_attn"],
    ["Wqkv"],
)
"""What the projections of attention are called: Llama, BERT, DistilBERT, DeBERTa, GPT-2,
ModernBERT."""

SHORTEST = 64
"""Tokens; a text cut further says little."""


def what_would_fit(job: AnyJob, facts: JobFacts, available: int) -> list[str]:
    """Settings by their place in the experiment, each alone under ``available`` bytes."""

    def fits(changed: AnyJob) -> bool:
        return estimate(workload_of(changed, facts)).total <= available

    place = section(job)
    options: list[str] = []
    lora = fitting_adapters(facts)
    if lora is not None and lora_of(job) is None and fits(_with_adapters(job, lora)):
        where = f"{place}.lora" if isinstance(job.settings, RewardOptim) else "policy.lora"
        default = lora.targets == LoraSpec().targets
        options.append(where if default else f"{where} with targets {', '.join(lora.targets)}")
    if job.method == "dpo" and fits(_with(job, "reference", "precomputed")):
        options.append(f"{place}.reference: precomputed")
    for name, smaller in (("batch_size", _batch_sizes(job)), ("max_length", _lengths(job))):
        found = next((value for value in smaller if fits(_with(job, name, value))), None)
        if found is not None:
            options.append(f"{place}.{name}: {found}")
    return options


def section(job: AnyJob) -> str:
    """Where the experiment has the job's settings."""
    if not isinstance(job.settings, RewardOptim):
        return f"policy.{job.method}"
    distilled = "distilled_preferences" in Path(job.train.path).parts
    return f"reward_model.{'distilled' if distilled else job.method}"


def fitting_adapters(facts: JobFacts) -> LoraSpec | None:
    """Adapters on the model's attention; None where its names are not known."""
    names = {name.removesuffix(".weight").rpartition(".")[2] for name in facts.shapes}
    known = (targets for targets in ATTENTION if names & set(targets))
    targets = next(known, None)
    return None if targets is None else LoraSpec(targets=targets)


def _with(job: AnyJob, name: str, value: Any) -> AnyJob:
    settings: Any = job.settings.model_copy(update={name: value})
    return job.model_copy(update={"settings": settings})


def _with_adapters(job: AnyJob, lora: LoraSpec) -> AnyJob:
    if isinstance(job.settings, RewardOptim):
        return _with(job, "lora", lora)
    return job.model_copy(update={"lora": lora})


def _batch_sizes(job: AnyJob) -> Iterable[int]:
    """Smaller ones, largest first, that its processes and groups divide."""
    group = job.settings.group_size if job.method == "grpo" else 1
    step = math.lcm(group, job.processes)
    return range((job.settings.batch_size - 1) // step * step, 0, -step)


def _lengths(job: AnyJob) -> Iterable[int]:
    """Shorter ones, longest first, in steps of 16 tokens; none where texts have no such limit."""
    longest: int = getattr(job.settings, "max_length", 0)
    return range((longest - 1) // 16 * 16, SHORTEST - 1, -16)
