"""Prompt templates: locales agree, key phrases are unique, substitution is single-pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from reward_harness.errors import SpecError
from reward_harness.prompts import ROLES, built_in, fence, load_template, load_templates, substitute

PROMPTS = Path(__file__).parents[2] / "prompts"
PHRASES = {
    "initializer": ("rubric designer",),
    "proposer": ("mutate rubrics",),
    "verifier": ("grades",),
    "judge": ("compare two responses", "preference"),
}


def all_sets():
    return [
        load_templates(PROMPTS, "en"),
        load_templates(PROMPTS, "zh"),
        load_templates(None, "en"),
    ]


def test_the_locales_declare_the_same():
    english, *others = all_sets()
    for role in ROLES:
        for other in others:
            for field in ("variables", "user", "texts"):
                assert set(getattr(other[role], field)) == set(getattr(english[role], field))


@pytest.mark.parametrize("templates", all_sets())
def test_each_role_has_its_key_phrase_and_no_other(templates):
    for role, template in templates.items():
        system = template.system_text({"max_criteria": 8, "low": 0, "high": 1})
        for other, phrases in PHRASES.items():
            for phrase in phrases:
                assert (phrase in system) == (role == other), (role, phrase)


@pytest.mark.parametrize("templates", all_sets())
def test_nothing_declared_is_left_unfilled(templates):
    for template in templates.values():
        values = dict.fromkeys(template.variables, "7")
        filled = [template.system_text(values), *(template.text(n, values) for n in template.texts)]
        assert not any(f"{{{name}}}" in text for name in template.variables for text in filled)


def test_load_order(tmp_path):
    assert load_template(PROMPTS, "zh", "judge").locale == "zh"
    assert load_template(tmp_path, "zh", "judge") == built_in("judge")
    default = (PROMPTS / "en" / "judge.yaml").read_text().replace('version: "1"', 'version: "9"')
    (tmp_path / "judge.yaml").write_text(default)
    assert load_template(tmp_path, "zh", "judge").version == "9"
    assert load_template(tmp_path, "zh", "judge").digest != built_in("judge").digest


def test_a_template_with_other_variables_is_refused(tmp_path):
    broken = (PROMPTS / "en" / "verifier.yaml").read_text().replace("[low, high]", "[low]")
    (tmp_path / "verifier.yaml").write_text(broken)
    with pytest.raises(SpecError, match="verifier template must have"):
        load_template(tmp_path, "en", "verifier")
    (tmp_path / "verifier.yaml").write_text("id: verifier\nsystem: x\n")
    with pytest.raises(SpecError, match="not a usable prompt template"):
        load_template(tmp_path, "en", "verifier")


def test_substitution_is_single_pass():
    assert substitute("{a} {b} {c}", {"a": "{b}", "b": "{a}"}) == "{b} {a} {c}"


def test_the_user_message_takes_exactly_its_keys():
    judge = built_in("judge")
    assert judge.user_text({"right": "r", "left": "{left}", "prompt": "p"}) == (
        '{"prompt": "p", "left": "{left}", "right": "r"}'
    )
    with pytest.raises(ValueError, match="judge takes"):
        judge.user_text({"prompt": "p", "left": "l", "right": "r", "quality": 1})


def test_a_fence_is_longer_than_any_run_inside():
    assert fence("a ````` b").startswith("``````text\n")
    assert fence("plain") == "```text\nplain\n```"
