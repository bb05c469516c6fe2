"""Reward Harness: search, train, serve and measure reward models, with a recorded origin for all.

The public names below are imported when they are first used, so that ``import reward_harness`` is
cheap and loads no training library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_harness.rewards.auto import AutoRM
    from reward_harness.rewards.base import BaseRM
    from reward_harness.rewards.cached import CachedRM
    from reward_harness.rewards.classifier import ClassifierRM
    from reward_harness.rewards.drsow import DrSow
    from reward_harness.rewards.ensemble import EnsembleRM
    from reward_harness.rewards.judge import LLMJudge
    from reward_harness.rewards.load import load_rm
    from reward_harness.rewards.mixtures import CompositeRM, MixedRM
    from reward_harness.rewards.process import ProcessRM
    from reward_harness.rewards.programmatic import ProgrammaticRM
    from reward_harness.rewards.remote import RemoteRM
    from reward_harness.rewards.rubric import RubricRM
    from reward_harness.rubrics.search.session import SearchSession, search_rubrics
    from reward_harness.rubrics.types import Criterion, Rubric
    from reward_harness.sections import SearchConfig
    from reward_harness.spec import ExperimentSpec

_HOMES = {
    "AutoRM": "reward_harness.rewards.auto",
    "BaseRM": "reward_harness.rewards.base",
    "CachedRM": "reward_harness.rewards.cached",
    "ClassifierRM": "reward_harness.rewards.classifier",
    "CompositeRM": "reward_harness.rewards.mixtures",
    "Criterion": "reward_harness.rubrics.types",
    "DrSow": "reward_harness.rewards.drsow",
    "EnsembleRM": "reward_harness.rewards.ensemble",
    "ExperimentSpec": "reward_harness.spec",
    "LLMJudge": "reward_harness.rewards.judge",
    "MixedRM": "reward_harness.rewards.mixtures",
    "ProcessRM": "reward_harness.rewards.process",
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
    "AutoRM",
    "BaseRM",
    "CachedRM",
    "ClassifierRM",
    "CompositeRM",
    "Criterion",
    "DrSow",
    "EnsembleRM",
    "ExperimentSpec",
    "LLMJudge",
    "MixedRM",
    "ProcessRM",
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
