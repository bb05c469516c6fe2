"""docs/reports.md and docs/failure-modes.md name stages, settings and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from reward_harness.spec import ExperimentSpec
from reward_harness.stages.table import STAGES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("reports.md", "failure-modes.md")
SETTING = re.compile(r"`((?:policy|reward_model|evaluation|dataset|search)\.[a-z_.]+)")


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The section's model in an annotation such as ``PPOSection | None``."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


@pytest.mark.parametrize("page", PAGES)
def test_settings_in_the_page_are_fields_of_an_experiment(page):
    found = {name.rstrip(".") for name in SETTING.findall(text_of(page))}
    assert found
    for name in found:
        model: Any = ExperimentSpec
        for part in name.split("."):
            assert part in model.model_fields, (page, name)
            model = model_of(model.model_fields[part].annotation)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_page_name_real_stages(page):
    named = re.findall(r"--stages ([a-z_,]+)", text_of(page))
    assert named
    for stages in named:
        assert set(stages.split(",")) <= STAGES.keys(), stages


@pytest.mark.parametrize("page", PAGES)
def test_links_in_the_page_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
        assert (DOCS / target).exists(), target


def test_reports_in_the_table_are_stages_of_the_graph():
    named = set(re.findall(r"`evaluations/([a-z_]+)`", text_of("reports.md"))) - {"leaderboard"}
    assert named <= STAGES.keys()
    assert {n for n, s in STAGES.items() if s.group == "evaluations"} <= named
