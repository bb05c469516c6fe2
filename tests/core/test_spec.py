"""Experiment files: inheritance, exact section digests, and errors that name file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.errors import SpecError
from reward_harness.spec import KEY_PATTERN, SECTIONS, merge, read_experiment

BASE = """\
seed: 7
dataset:
  ranked: {source: tour}
  preferences: {source: tour}
policy:
  model: {source: random, name: tiny-causal}
  sft: {max_steps: 4}
  ppo: {max_steps: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def changed(folder: Path, text: str) -> set[str]:
    """Sections whose digest differs between base.yaml and an edited copy."""
    (folder / "edited.yaml").write_text(text)
    before = read_experiment(folder, "base").section_digests()
    after = read_experiment(folder, "edited").section_digests()
    return {name for name in SECTIONS if before[name] != after[name]}


def test_editing_ppo_changes_the_ppo_section_only(folder: Path) -> None:
    assert changed(folder, BASE.replace("ppo: {max_steps: 2}", "ppo: {max_steps: 3}")) == {
        "policy_ppo"
    }


def test_editing_a_source_changes_that_dataset_only(folder: Path) -> None:
    text = BASE.replace("preferences: {source: tour}", "preferences: {source: tour, limit: 5}")
    assert changed(folder, text) == {"dataset_preferences"}


def test_seed_changes_every_section_and_description_none(folder: Path) -> None:
    assert changed(folder, BASE.replace("seed: 7", "seed: 8")) == set(SECTIONS)
    assert changed(folder, "description: other\n" + BASE) == set()


def test_extends_merges_section_by_section(folder: Path) -> None:
    (folder / "child.yaml").write_text("extends: base\npolicy:\n  ppo: {kl_target: 3.0}\n")
    spec = read_experiment(folder, "child")
    assert spec.policy.ppo is not None and spec.policy.sft is not None
    assert (spec.policy.ppo.max_steps, spec.policy.ppo.kl_target, spec.policy.sft.max_steps) == (
        2,
        3.0,
        4,
    )
    assert spec.key == "child"


def test_null_switches_an_inherited_stage_off(folder: Path) -> None:
    (folder / "child.yaml").write_text("extends: base\npolicy:\n  ppo: null\n")
    assert read_experiment(folder, "child").policy.ppo is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "polcy: 3\n", r"bad\.yaml:9: unknown field 'polcy'"),
        (
            BASE.replace("kl", "kl").replace("{max_steps: 2}", "{max_step: 2}"),
            r"bad\.yaml:8: .*policy\.ppo\.max_step",
        ),
        (BASE.replace("seed: 7", "seed: many"), r"bad\.yaml:1: field 'seed'.*; got 'many'"),
        ("dataset: [", r"bad\.yaml:\d+: not valid YAML"),
        ("- a\n- b\n", r"bad\.yaml: not a mapping; got 'list'"),
        ("extends: bad\n", "extend each other in a circle"),
        ("extends: nowhere\n", r"nowhere\.yaml: no such file"),
    ],
)
def test_a_bad_file_is_one_error_with_file_and_line(folder: Path, text: str, message: str) -> None:
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(SpecError, match=message):
        read_experiment(folder, "bad")


@pytest.mark.parametrize(
    "key", ["Upper", "a", "-lead", "with space", "a,b", "x" * 49, "brace{", "dots..."]
)
def test_bad_keys_are_refused_with_the_rule(folder: Path, key: str) -> None:
    with pytest.raises(SpecError, match="not a usable experiment key"):
        read_experiment(folder, key)


def test_the_leaderboards_key_is_no_experiments_key(folder: Path) -> None:
    with pytest.raises(SpecError, match="the leaderboard lies under this key"):
        read_experiment(folder, "all")


def test_unknown_experiment_lists_those_there_are(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"no experiment 'other'.*expected one of: base"):
        read_experiment(folder, "other")


BT = "reward_model: {bt: {backbone: {source: random, name: %s}, init: sft_checkpoint}}\n"
NO_SFT = "policy: {sft: null, ppo: null}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy: {sft: null}\n", r"'policy': .*add policy\.sft"),
        (
            "policy: {grpo: {max_steps: 1, batch_size: 6}}\n",
            r"bad\.yaml:2: .*'policy\.grpo': batch_size 6 is no multiple of group_size 4",
        ),
        (
            "policy: {sft: {max_steps: 1, warmup_fraction: 5}}\n",
            r"'policy\.sft\.warmup_fraction': .*less than or equal to 1; got 5",
        ),
        ("search: {initializer_strategy: preset}\n", r"'search': .*preset needs a preset_rubric"),
        (
            BT % "tiny-encoder",
            r"bad\.yaml: reward_model\.bt\.init .*the backbone is not.*tiny-encoder.*tiny-causal",
        ),
        (BT % "tiny-causal" + NO_SFT, r"reward_model\.bt\.init .*there is no policy\.sft"),
        ((BT % "tiny-encoder").replace("bt:", "distilled:"), r"reward_model\.distilled\.init"),
        ((BT % "tiny-encoder").replace("bt:", "ensemble:"), r"reward_model\.ensemble\.init"),
    ],
)
def test_what_cannot_be_done_is_refused_on_reading(folder: Path, text: str, message: str) -> None:
    (folder / "bad.yaml").write_text(f"extends: base\n{text}")
    with pytest.raises(SpecError, match=message):
        read_experiment(folder, "bad")


def test_a_reward_model_may_start_from_sft(folder: Path) -> None:
    (folder / "good.yaml").write_text("extends: base\n" + BT % "tiny-causal")
    assert read_experiment(folder, "good").reward_model.bt is not None


json_values = st.recursive(
    st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
mappings = st.dictionaries(st.text(max_size=3), json_values, max_size=4)


@given(base=mappings, override=mappings)
def test_merge_keeps_every_override_and_every_untouched_key(base: dict, override: dict) -> None:
    merged = merge(base, override)
    assert set(merged) == set(base) | set(override)
    assert all(merged[key] == base[key] for key in base if key not in override)
    assert all(
        merged[key] == value for key, value in override.items() if not isinstance(value, dict)
    )
    assert merge(merged, override) == merged


@given(st.from_regex(KEY_PATTERN, fullmatch=True))
def test_every_key_of_the_pattern_is_a_plain_name(key: str) -> None:
    assert key.strip() == key and not set(key) & set(", {}./\\")
