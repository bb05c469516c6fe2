"""Fixtures that every test room shares: a private project root, and no network by accident."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _name in ("LLM_API_KEY", "LLM_BASE_URL", "LLM_MODEL"):
    os.environ.pop(_name, None)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A private root with the shipped experiments, sources, tour data and prompts; nothing is shared but code."""
    from reward_harness.workspace import Workspace

    root = tmp_path / "project"
    for folder in (
        "data/experiments",
        "data/sources",
        "data/tour",
        "data/studies",
        "data/attacks",
        "prompts",
    ):
        if (REPOSITORY / folder).is_dir():
            shutil.copytree(REPOSITORY / folder, root / folder)
    shutil.copy(REPOSITORY / "workspace.yaml", root / "workspace.yaml")
    (root / "data" / "dagster").mkdir(parents=True)
    shutil.copy(REPOSITORY / "data/dagster/dagster.yaml", root / "data/dagster/dagster.yaml")
    monkeypatch.setenv("HARNESS_ROOT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "data" / "dagster"))
    return Workspace(root)
