"""Studies expand to experiment keys that name variant and seed, or fail with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from reward_harness.errors import SpecError
from reward_harness.experiments import find_experiment, members_of
from reward_harness.spec import read_experiment
from reward_harness.studies import (
    StudySpec,
    expand,
    member_spec,
    read_study,
    slug,
    study_names,
)
from reward_harness.workspace import Workspace

SHIPPED = Workspace(Path(__file__).resolve().parents[2])

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
    spec = member_spec(read_experiment(folder, study.base), study, expand(study)[2])
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
        member_spec(read_experiment(folder, study.base), study, expand(study)[0])


def test_named_variants_cross_the_grid_and_a_later_override_refines_an_earlier(
    folder: Path,
) -> None:
    (folder / "both.yaml").write_text(
        "base: base\nvariants: {long: {policy.ppo: {max_steps: 9}}, none: {policy.ppo: null}}\n"
        "grid: {policy.sft.max_steps: [1, 2]}\nseeds: [3]\n"
    )
    study = read_study(folder, "both")
    members = expand(study)
    assert [m.variant for m in members] == [
        f"{name}-max-steps-{steps}" for name in ("long", "none") for steps in (1, 2)
    ]
    long, none = (
        member_spec(read_experiment(folder, study.base), study, members[number])
        for number in (1, 3)
    )
    assert long.policy.ppo is not None and long.policy.ppo.max_steps == 9
    assert long.policy.sft is not None and long.policy.sft.max_steps == 2
    assert none.policy.ppo is None


def test_a_study_extends_another(folder: Path) -> None:
    (folder / "wide.yaml").write_text("extends: kl\nseeds: [5]\n")
    study = read_study(folder, "wide")
    assert (study.base, study.seeds, study.grid["policy.ppo.kl_target"]) == ("base", [5], [1.5, 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baseline: other\n", r"no variant of this study.*got 'other'.*expected one of: kl-init"),
        ("measures: [reward]\n", "not `<stage>.<metric>"),
        ("sedes: [1]\n", "unknown field 'sedes'"),
    ],
)
def test_a_bad_study_is_one_error(folder: Path, text: str, message: str) -> None:
    (folder / "bad.yaml").write_text(f"extends: kl\n{text}")
    with pytest.raises(SpecError, match=message):
        read_study(folder, "bad")


@pytest.mark.parametrize("name", study_names(SHIPPED.studies))
def test_every_shipped_study_has_members_that_are_experiments(name: str) -> None:
    study = read_study(SHIPPED.studies, name)
    specs = [spec for _, spec in members_of(SHIPPED, study)]
    assert study.status == "available" and study.measures
    assert find_experiment(SHIPPED, specs[-1].key) == specs[-1]


def test_the_page_of_studies_names_each_and_its_sister_for_a_gpu() -> None:
    text = (SHIPPED.root / "docs" / "studies.md").read_text()
    names = study_names(SHIPPED.studies)
    for name in names:
        plain = name.removesuffix("-gpu")
        assert f"`{plain}`" in text, name
        assert name in ("data-volume", "sums") or f"{plain}-gpu" in names, name
