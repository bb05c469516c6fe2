"""Studies expand to experiment keys that name variant and seed, or fail with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from reward_harness.errors import SpecError
from reward_harness.studies import StudySpec, expand, member_spec, read_study, slug

BASE = """\
dataset:
  ranked: {source: tour}
policy:
  model: {source: random, name: tiny-causal}
  sft: {max_steps: 4}
  ppo: {max_steps: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "kl.yaml").write_text(
        "base: base\ngrid:\n  policy.ppo.kl_target: [1.5, 3]\n  policy.ppo.kl_init: [0.2]\nseeds: [1, 2]\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0p5"), (3, "3"), (-2, "m2"), (1e-5, "1em05"), (True, "true"), ("A b", "a-b")],
)
def test_slug_keeps_values_apart(value: object, text: str) -> None:
    assert slug(value) == text


def test_members_are_named_by_variant_and_seed(folder: Path) -> None:
    keys = [member.key for member in expand(read_study(folder, "kl"))]
    assert keys[:2] == ["kl--kl-init-0p2-kl-target-1p5--s1", "kl--kl-init-0p2-kl-target-1p5--s2"]
    assert len(keys) == 4


def test_member_is_the_base_with_overrides_and_seed(folder: Path) -> None:
    study = read_study(folder, "kl")
    spec = member_spec(folder, study, expand(study)[2])
    assert spec.policy.ppo is not None
    assert (spec.policy.ppo.kl_target, spec.policy.ppo.max_steps, spec.seed) == (3.0, 2, 1)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"policy.ppo.clip": ["a b", "a-b"]}, "two members have one key"),
        ({"policy.ppo.clip": ["x" * 40]}, "member key is not usable"),
    ],
)
def test_unusable_keys_are_errors(grid: dict[str, list], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        expand(StudySpec(name="s", base="base", grid=grid, seeds=[1]))


def test_override_that_does_not_exist_is_an_error(folder: Path) -> None:
    study = StudySpec(name="s", base="base", grid={"policy.ppo.klt": [1]}, seeds=[1])
    with pytest.raises(SpecError, match=r"policy\.ppo\.klt"):
        member_spec(folder, study, expand(study)[0])
