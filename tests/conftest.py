"""Fixtures that every test room shares: a private project root, and no network by accident."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from reward_harness.workspace import Workspace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile(
    "busy_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy_machine")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """Forget the caller's endpoint and Dagster home: every test has a project of its own.

    Not at import, which a spawned process does again after its test has set them.
    """
    for name in ("LLM_API_KEY", "LLM_BASE_URL", "LLM_MODEL", "DAGSTER_HOME"):
        os.environ.pop(name, None)


SHIPPED = (
    "data/experiments",
    "data/studies",
    "data/sources",
    "data/tour",
    "data/attacks",
    "prompts",
)


def copy_project(root: Path) -> Workspace:
    """A private root with the shipped experiments, data and prompts; only code is shared."""
    for folder in SHIPPED:
        shutil.copytree(REPOSITORY / folder, root / folder)
    shutil.copy(REPOSITORY / "workspace.yaml", root / "workspace.yaml")
    (root / "data" / "dagster").mkdir(parents=True)
    shutil.copy(REPOSITORY / "data/dagster/dagster.yaml", root / "data/dagster/dagster.yaml")
    return Workspace(root)


def small_project(root: Path, keys: Sequence[str]) -> Workspace:
    """A private root with few experiments, for a daemon starts a run for each: `smoke`, `tour` and,
    under ``keys``, likes of `smoke` that differ in the seed.
    """
    private = copy_project(root)
    shutil.rmtree(private.studies)
    for path in private.experiments.glob("*.yaml"):
        if path.stem not in ("smoke", "tour"):
            path.unlink()
    for seed, key in enumerate(keys):
        (private.experiments / f"{key}.yaml").write_text(f"extends: smoke\nseed: {seed}\n")
    return private


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A private project, found by everything that looks for one."""
    private = copy_project(tmp_path / "project")
    monkeypatch.setenv("HARNESS_ROOT", str(private.root))
    monkeypatch.setenv("DAGSTER_HOME", str(private.root / "data" / "dagster"))
    return private
