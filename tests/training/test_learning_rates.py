"""The learning rate where an experiment names none: by whether adapters or all weights train."""

from __future__ import annotations

from pathlib import Path

import pytest

from reward_harness.errors import SpecError
from reward_harness.sections import PolicySection, SFTSection
from reward_harness.spec import ExperimentSpec, read_experiment

METHODS = ("sft", "dpo", "ppo", "grpo", "iterative_dpo")
TEXT = """\
dataset: {}
policy:
  model: {source: random, name: tiny-causal}
  sft: {max_steps: 1}
  dpo: {max_steps: 1}
  ppo: {max_steps: 1}
  grpo: {max_steps: 1}
  iterative_dpo: {}
"""
WHOLE = TEXT + "  lora: null\n"


def spec(tmp_path: Path, text: str) -> ExperimentSpec:
    (tmp_path / "one.yaml").write_text(text)
    return read_experiment(tmp_path, "one")


def rates(found: ExperimentSpec) -> tuple[float, ...]:
    return tuple(getattr(found.policy, name).learning_rate for name in METHODS)


def test_adapters_take_larger_rates_than_whole_weights(tmp_path):
    assert rates(spec(tmp_path, TEXT)) == (2e-4, 1e-4, 2e-5, 2e-5, 1e-4)
    assert rates(spec(tmp_path, TEXT + "  lora: {r: 4}\n")) == rates(spec(tmp_path, TEXT))
    assert rates(spec(tmp_path, WHOLE)) == (2e-5, 5e-7, 1.41e-5, 1e-6, 5e-7)


@pytest.mark.parametrize("lora", ["", "  lora: null\n"])
def test_a_rate_that_the_file_names_stays(tmp_path, lora):
    text = TEXT.replace("dpo: {max_steps: 1}", "dpo: {max_steps: 1, learning_rate: 3.0e-5}") + lora
    named, free = rates(spec(tmp_path, text)), rates(spec(tmp_path, TEXT + lora))
    assert named == (free[0], 3e-5, *free[2:])


@pytest.mark.parametrize("text", [TEXT, WHOLE])
def test_what_is_written_out_names_the_rate_and_reads_as_the_same(tmp_path, text):
    found = spec(tmp_path, text)
    dump = found.model_dump(mode="json")
    assert tuple(dump["policy"][name]["learning_rate"] for name in METHODS) == rates(found)
    again = ExperimentSpec.model_validate(dump)
    assert again == found and again.section_digests() == found.section_digests()


def test_a_section_made_in_code_takes_the_same_rate():
    model = {"source": "random", "name": "tiny-causal"}
    sections = SFTSection(max_steps=1), SFTSection(max_steps=1, learning_rate=2e-4)
    found = [
        PolicySection.model_validate({"model": model, "lora": None, "sft": s}) for s in sections
    ]
    assert [one.sft.learning_rate for one in found if one.sft] == [2e-5, 2e-4]


def test_a_rate_of_nothing_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"policy\.sft\.learning_rate"):
        spec(tmp_path, TEXT.replace("sft: {max_steps: 1}", "sft: {max_steps: 1, learning_rate: 0}"))
