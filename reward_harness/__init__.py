"""Reward Harness: search, train, serve and measure reward models, with a recorded origin for all.

The public names below are imported when they are first used, so that ``import reward_harness`` is
cheap and loads no training library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_harness.rewards.base import BaseRM
    from reward_harness.rewards.classifier import ClassifierRM
    from reward_harness.rewards.ensemble import EnsembleRM
    from reward_harness.rewards.load import load_rm
    from reward_harness.rewards.programmatic import ProgrammaticRM
    from reward_harness.rewards.remote import RemoteRM
    from reward_harness.rewards.rubric import RubricRM
    from reward_harness.rubrics.search.session import SearchSession, search_rubrics
    from reward_harness.rubrics.types import Criterion, Rubric
    from reward_harness.sections import SearchConfig
    from reward_harness.spec import ExperimentSpec

_HOMES = {
    "BaseRM": "reward_harness.rewards.base",
    "ClassifierRM": "reward_harness.rewards.classifier",
    "Criterion": "reward_harness.rubrics.types",
    "EnsembleRM": "reward_harness.rewards.ensemble",
    "ExperimentSpec": "reward_harness.spec",
    "ProgrammaticRM": "reward_harness.rewards.programmatic",
    "RemoteRM": "reward_harness.rewards.remote",
    "Rubric": "reward_harness.rubrics.types",
    "RubricRM": "reward_harness.rewards.rubric",
    "SearchConfig": "reward_harness.sections",
    "SearchSession": "reward_harness.rubrics.search.session",
    "load_rm": "reward_harness.rewards.load",
    "search_rubrics": "reward_harness.rubrics.search.session",
}

__all__ = [
    "BaseRM",
    "ClassifierRM",
    "Criterion",
    "EnsembleRM",
    "ExperimentSpec",
    "ProgrammaticRM",
    "RemoteRM",
    "Rubric",
    "RubricRM",
    "SearchConfig",
    "SearchSession",
    "load_rm",
    "search_rubrics",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
