"""Mutation schedules with the numbers of the specification, and what a draw keeps."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.rubrics.search.schedules import (
    MutationStats,
    credit,
    draw_modes,
    modes_in_turn,
    scheduled_modes,
    weights_of,
)
from reward_harness.sections import SearchConfig

SIX = (
    "raise_bar",
    "decompose",
    "factual_focus",
    "anti_fluff",
    "counterexample_trigger",
    "weight_perturb",
)
EXPLORING_THREE = {"decompose", "factual_focus", "counterexample_trigger"}


def weights(schedule: str, generation=0, generations=10, diversity=0.0, stats=None, **fields):
    config = SearchConfig(adaptive_mutation=schedule, **fields)
    return weights_of(config, SIX, stats or MutationStats(), generation, generations, diversity)


def by_kind(found: dict[str, float]) -> tuple[float, float]:
    """(exploring, exploiting) after checking that each kind has one weight."""
    exploring = {round(found[m], 9) for m in SIX if m in EXPLORING_THREE}
    exploiting = {round(found[m], 9) for m in SIX if m not in EXPLORING_THREE}
    assert (len(exploring), len(exploiting)) == (1, 1)
    return exploring.pop(), exploiting.pop()


def test_fixed_is_even():
    assert list(weights("fixed").values()) == pytest.approx([1 / 6] * 6)


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_exploration_comes_first(generation):
    found = by_kind(weights("exploration_decay", generation))
    assert found == pytest.approx((0.266667, 0.066667), abs=1e-6)


@pytest.mark.parametrize("generation", [3, 9])
def test_exploitation_comes_after_three_tenths(generation):
    found = by_kind(weights("exploration_decay", generation))
    assert found == pytest.approx((0.066667, 0.266667), abs=1e-6)


@pytest.mark.parametrize(
    ("diversity", "expected"),
    [
        (0.0, (0.222222, 0.111111)),
        (0.025, (0.166667, 0.166667)),
        (0.05, (0.111111, 0.222222)),
        (0.9, (0.111111, 0.222222)),
    ],
)
def test_low_diversity_favours_exploring(diversity, expected):
    assert by_kind(weights("diversity_driven", diversity=diversity)) == pytest.approx(
        expected, abs=1e-6
    )


def test_success_is_rewarded_down_to_a_floor():
    stats = MutationStats()
    for accepted in (True, True, True, False):
        stats = credit(stats, "raise_bar", accepted, 10)
    for _ in range(4):
        stats = credit(stats, "decompose", False, 10)
    found = weights("success_feedback", stats=stats)
    total = 0.75 + 0.1 + 4 * 0.5
    assert found["raise_bar"] == pytest.approx(0.75 / total)
    assert found["decompose"] == pytest.approx(0.1 / total)
    assert found["anti_fluff"] == pytest.approx(0.5 / total)


def test_all_weights_zero_is_even():
    stats = MutationStats()
    for mode in SIX:
        stats = credit(stats, mode, False, 10)
    found = weights("success_feedback", stats=stats, min_mutation_weight=0.0)
    assert list(found.values()) == pytest.approx([1 / 6] * 6)


def test_only_the_window_counts_and_totals_are_kept():
    stats = MutationStats()
    for accepted in [True] * 5 + [False] * 10:
        stats = credit(stats, "raise_bar", accepted, 10)
    record = stats.of("raise_bar")
    assert (record.rate, record.tried, record.accepted, len(record.recent)) == (0.0, 15, 5, 10)
    assert stats.of("decompose").tried == 0


def test_stats_survive_a_checkpoint():
    stats = credit(credit(MutationStats(), "raise_bar", True, 10), "anti_fluff", False, 10)
    assert MutationStats.model_validate_json(stats.model_dump_json()) == stats


@given(
    st.sampled_from(["fixed", "success_feedback", "exploration_decay", "diversity_driven"]),
    st.integers(0, 12),
    st.floats(0, 1),
    st.lists(st.tuples(st.sampled_from(SIX), st.booleans()), max_size=40),
)
def test_weights_are_probabilities(schedule, generation, diversity, outcomes):
    stats = MutationStats()
    for mode, accepted in outcomes:
        stats = credit(stats, mode, accepted, 10)
    found = weights(schedule, generation, 12, diversity, stats)
    assert list(found) == list(SIX)
    assert sum(found.values()) == pytest.approx(1.0)
    assert min(found.values()) > 0


@given(st.integers(0, 60), st.integers(0, 1000), st.lists(st.floats(0.01, 1), min_size=1))
def test_a_draw_is_as_even_as_the_weights_allow(count, seed, raw):
    names = {f"m{i}": w / sum(raw) for i, w in enumerate(raw)}
    drawn = draw_modes(names, count, np.random.default_rng(seed))
    assert drawn == draw_modes(names, count, np.random.default_rng(seed))
    assert len(drawn) == count
    for name, times in Counter(drawn).items():
        assert abs(times - count * names[name]) < 1 + 1e-6


def test_a_mode_of_weight_zero_is_not_drawn():
    for seed in range(50):
        drawn = draw_modes({"a": 0.0, "b": 1.0, "c": 0.0}, 3, np.random.default_rng(seed))
        assert drawn == ["b"] * 3


def test_fixed_keeps_the_turns_of_the_whole_search():
    config, even = SearchConfig(), dict.fromkeys(SIX, 1 / 6)
    rng = np.random.default_rng(0)
    assert scheduled_modes(config, even, 4, 4, rng) == [*SIX[4:], *SIX[:2]]
    assert modes_in_turn(SIX, 0, 3) == []
    drawn = scheduled_modes(SearchConfig(adaptive_mutation="success_feedback"), even, 6, 4, rng)
    assert sorted(drawn) == sorted(SIX)
