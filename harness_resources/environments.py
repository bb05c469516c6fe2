"""Which resources and executor run the graph, by ``HARNESS_ENV`` (local, smoke, cluster)."""

import os
from collections.abc import Mapping

import dagster as dg

from harness_resources.compute import Compute
from harness_resources.llm import LLM
from harness_resources.reward_service import RewardService
from harness_resources.store import Store
from reward_harness.errors import SpecError

ENVIRONMENTS = ("local", "smoke", "cluster")
STEP_PROCESSES = 2


def environment() -> str:
    """The value of ``HARNESS_ENV``; ``SpecError`` for one that does not exist."""
    name = os.environ.get("HARNESS_ENV", "local")
    if name not in ENVIRONMENTS:
        raise SpecError(
            "unknown environment", where="HARNESS_ENV", got=name, expected=" | ".join(ENVIRONMENTS)
        )
    return name


def resources() -> Mapping[str, dg.ConfigurableResource]:
    """The four resources; ``smoke`` trains in the step's own process, ``cluster`` names a
    deployment whose resources are those of ``local``.
    """
    name = environment()
    return {
        "store": Store(),
        "llm": LLM(),
        "compute": Compute(kind="inline" if name == "smoke" else "experiment"),
        "reward_service": RewardService(),
    }


def default_executor() -> dg.ExecutorDefinition:
    """In-process for smoke; otherwise a process for each step, forked from one that has Dagster
    loaded.
    """
    return dg.in_process_executor if environment() == "smoke" else step_processes()


def step_processes() -> dg.ExecutorDefinition:
    """At most two step processes at a time, from a forkserver with this code location loaded."""
    return dg.multiprocess_executor.configured(
        {
            "max_concurrent": STEP_PROCESSES,
            "start_method": {
                "forkserver": {"preload_modules": ["dagster", "harness_jobs.definitions"]}
            },
        }
    )
