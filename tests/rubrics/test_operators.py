"""The mutation modes: every one has its words in every template, and a kind for the schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from reward_harness.llm.roles import ModelRoles
from reward_harness.prompts import load_templates
from reward_harness.rubrics.search.designers import (
    BASIC,
    SEMANTIC,
    ModelDesigner,
    TemplateDesigner,
)
from reward_harness.rubrics.search.mutation import modes_of
from reward_harness.rubrics.search.schedules import EXPLORING

PROMPTS = Path(__file__).parents[2] / "prompts"
ROLES = cast("ModelRoles", cast("Any", None))
SIX = {
    "raise_bar",
    "decompose",
    "factual_focus",
    "anti_fluff",
    "counterexample_trigger",
    "weight_perturb",
}


@pytest.mark.parametrize(("folder", "locale"), [(PROMPTS, "en"), (PROMPTS, "zh"), (None, "en")])
def test_every_template_has_words_for_every_mode_and_no_others(folder, locale):
    proposer = load_templates(folder, locale)["proposer"]
    words = {mode: proposer.texts[mode] for mode in (*BASIC, *SEMANTIC)}
    assert set(proposer.texts) == {"task", "requirements", *BASIC, *SEMANTIC}
    assert len(set(words.values())) == len(BASIC) + len(SEMANTIC) == 16
    assert proposer.version == "2"


def test_without_semantic_operators_the_six_basic_modes_are_left():
    for designer in (ModelDesigner(ROLES, semantic=False), TemplateDesigner(semantic=False)):
        assert set(modes_of(designer)) == SIX
    assert len(modes_of(ModelDesigner(ROLES))) == 17
    assert set(modes_of(TemplateDesigner())) > SIX


def test_schedules_know_the_kinds_of_modes_that_exist():
    assert set(BASIC) | set(SEMANTIC) > EXPLORING
    assert len(EXPLORING & SIX) == 3
