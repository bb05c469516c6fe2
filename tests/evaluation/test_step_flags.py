"""Flags by the position of the first mistake, on scores that are known."""

from __future__ import annotations

import numpy as np
import pytest

from reward_harness.evaluation.step_flags import first_wrong_step, flagged_by_position


def test_the_first_wrong_step_is_counted_from_one():
    assert first_wrong_step([1, 0, -1, -1]) == 3
    assert first_wrong_step([1, 0]) is None


def test_late_mistakes_are_flagged_by_who_sees_them_and_early_ones_by_both():
    first_wrong = [None] * 100 + [1] * 20 + [2] * 20 + [4] * 20 + [9] * 4
    right = np.linspace(0.5, 1.0, 100)
    sees = np.concatenate([right, np.full(64, 0.1)])
    blind = np.concatenate([right, np.full(20, 0.1), np.full(44, 0.9)])
    steps = flagged_by_position(sees, first_wrong, 0.1)
    outcome = flagged_by_position(blind, first_wrong, 0.1)
    assert {name: i.value for name, i in steps.items()} == {"1": 1.0, "2": 1.0, "3_to_4": 1.0}
    assert {name: i.value for name, i in outcome.items()} == {"1": 1.0, "2": 0.0, "3_to_4": 0.0}
    assert outcome["2"].n == 20 and outcome["2"].high == pytest.approx(0.1611, abs=1e-4)


def test_a_higher_false_flag_rate_flags_more_and_without_right_solutions_nothing_is_said():
    first_wrong = [None] * 50 + [1] * 10
    scores = np.concatenate([np.linspace(0, 1, 50), np.full(10, 0.25)])
    assert flagged_by_position(scores, first_wrong, 0.1)["1"].value == 0.0
    assert flagged_by_position(scores, first_wrong, 0.5)["1"].value == 1.0
    assert flagged_by_position(scores[50:], first_wrong[50:], 0.1) == {}
