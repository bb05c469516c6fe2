"""Policies' figures on texts whose rewards, lengths and log ratios are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_rewards import HOW, quality, scorer

from reward_harness.data.records import Message
from reward_harness.evaluation.policies import PolicyOutput, Sample, compare_policies
from reward_harness.evaluation.texts import distinct_n, is_refusal, is_verbose, repetition


def sample(index: int, text: str, tokens: int = 10, ratio: float | None = None, ended: bool = True):
    prompt = [Message(role="user", content=f"Question {index}")]
    return Sample(f"q{index}", prompt, text, tokens, ended, ratio)


def output(name: str, qualities, ratio: float | None = None, tokens: int = 10, repeat: int = 1):
    samples = [
        sample(i, f"{q:.4f} answer {k}", tokens, ratio)
        for i, q in enumerate(qualities)
        for k in range(repeat)
    ]
    return PolicyOutput(name, "e" * 64, samples)


BASE = np.linspace(0, 1, 40)


def compared(*others: PolicyOutput, scorers=None):
    found = compare_policies(
        [output("sft", BASE), *others], scorers or [scorer(quality)], "sft", HOW
    )
    return {measures.name: measures for measures in found.measures}


def test_a_constant_lift_is_found_by_the_paired_change_though_the_spread_is_wide():
    found = compared(output("ppo", BASE + 0.1, ratio=0.5))["ppo"].by_scorer["toy"]
    assert found.change.value == pytest.approx(0.1)
    assert found.change.low > 0.0999
    assert found.win_rate.value == 1.0
    assert found.gain_per_nat.value == pytest.approx(0.2)
    assert found.p_value < 0.001


def test_the_reference_is_compared_with_nothing():
    found = compared()["sft"]
    assert found.by_scorer["toy"].change is None
    assert found.by_scorer["toy"].mean.value == pytest.approx(0.5)
    assert found.kl_sequence is None and found.length_change is None


def test_an_equal_policy_wins_half_with_no_change():
    found = compared(output("dpo", BASE, ratio=0.0))["dpo"].by_scorer["toy"]
    assert (found.change.value, found.change.low, found.change.high) == (0.0, 0.0, 0.0)
    assert found.win_rate.value == 0.5
    assert found.p_value == 1.0
    assert found.gain_per_nat is None


def test_kl_is_a_sum_over_a_sequence_and_a_share_for_each_token():
    found = compared(output("ppo", BASE, ratio=2.0, tokens=20))["ppo"]
    assert found.kl_sequence.value == 2.0
    assert found.kl_token.value == pytest.approx(0.1)
    assert found.length_change.value == 10.0


def test_samples_of_one_prompt_are_averaged_before_resampling():
    found = compared(output("ppo", BASE, ratio=1.0, repeat=3))["ppo"]
    assert (found.n_prompts, found.n_samples) == (40, 120)
    assert found.length_tokens.n == 40
    assert found.by_scorer["toy"].mean.n == 40


def test_unscored_responses_leave_their_prompt_out_of_the_comparison():
    def gaps(text: str) -> float | None:
        return None if text.startswith("1.0") else quality(text)

    found = compared(output("ppo", BASE + 0.2, ratio=1.0), scorers=[scorer(gaps)])["ppo"]
    figures = found.by_scorer["toy"]
    missing = sum(f"{q + 0.2:.4f}".startswith("1.0") for q in BASE)
    assert missing > 0
    assert figures.unscored_share == pytest.approx(missing / 40)
    assert figures.change.n == 40 - len(
        {
            i
            for i, q in enumerate(BASE)
            if f"{q + 0.2:.4f}".startswith("1.0") or f"{q:.4f}".startswith("1.0")
        }
    )
    assert figures.change.value == pytest.approx(0.2)


def test_several_scorers_judge_side_by_side():
    found = compared(
        output("ppo", BASE + 0.1, ratio=1.0),
        scorers=[scorer(quality, "rubric"), scorer(lambda t: -quality(t), "other")],
    )["ppo"]
    assert found.by_scorer["rubric"].change.value == pytest.approx(0.1)
    assert found.by_scorer["other"].change.value == pytest.approx(-0.1)


def test_verbose_bias_needs_an_opener_or_many_tokens_for_a_short_prompt():
    assert is_verbose("Why?", "Certainly! Because.", 5)
    assert is_verbose("Why?", "Because.", 201)
    assert not is_verbose("Why?", "Because.", 200)
    assert not is_verbose("word " * 21, "Because.", 500)


def test_refusals_are_read_at_the_beginning():
    assert is_refusal("I'm sorry, but I can't help with that.")
    assert not is_refusal("Tides follow the moon.")


def test_diversity_and_repetition_of_texts():
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n([""], 1) is None
    assert repetition("a b c d a b c d") == pytest.approx(0.2)
    assert repetition("a b") == 0.0
