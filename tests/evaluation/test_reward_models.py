"""A reward's figures on toy rewards whose accuracy, length bias and calibration are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_rewards import HOW, RuleRM, longer, pairs, quality, ranked, scorer

from reward_harness.data.records import Candidate
from reward_harness.evaluation import calibration as c
from reward_harness.evaluation.reward_models import (
    HeldOut,
    agreement,
    length_baselines,
    measure_scorer,
    pair_agreement,
)
from reward_harness.evaluation.scoring import FILLER, Scorer, score_pairs


def measured(rule, name="toy", test=None, validation=None, ranked_prompts=()):
    data = HeldOut(test or pairs(120), validation or pairs(60, seed=1), ranked_prompts)
    return measure_scorer(scorer(rule, name), data, HOW)


def test_a_perfect_scorer_is_right_everywhere_and_beats_both_length_rules():
    found = measured(quality).measures.pairs
    assert (found.accuracy.value, found.accuracy.low, found.accuracy.high) == (1.0, 1.0, 1.0)
    assert found.over_longer.low > 0 and found.over_shorter.low > 0
    assert found.length_controlled.value == 1.0
    assert found.by_source.keys() == {"alpha", "beta"}
    assert found.n_pairs == found.n_prompts == 120


def test_a_length_rule_equals_its_baseline_and_is_chance_when_length_is_controlled():
    test = pairs(150)
    found = measured(longer, test=test).measures.pairs
    baselines = length_baselines(test, HOW)
    assert found.accuracy.value == pytest.approx(baselines.longer_wins.value)
    assert found.over_longer.value == 0.0
    assert found.length_controlled.value == pytest.approx(0.5)
    assert baselines.shorter_wins.value == pytest.approx(1 - baselines.longer_wins.value)


def test_length_bias_is_the_added_score_in_units_of_the_scores_own_spread():
    test = pairs(100)
    found = measured(longer, test=test).measures.pairs
    scores = score_pairs(RuleRM(longer), test)
    spread = np.concatenate([scores.chosen, scores.rejected]).std()
    assert found.length_bias.value == pytest.approx(len(FILLER.split()) / spread)
    assert measured(quality).measures.pairs.length_bias.value == 0.0


def test_scaling_a_reward_changes_neither_accuracy_nor_length_bias():
    one = measured(longer).measures.pairs
    other = measured(lambda text: 100 * longer(text) - 3).measures.pairs
    assert other.accuracy == one.accuracy
    assert other.length_bias.value == pytest.approx(one.length_bias.value)


def test_missing_scores_are_left_out_and_their_share_is_stated():
    found = measured(lambda text: None if text.startswith("0.9") else quality(text)).measures.pairs
    test = pairs(120)
    without = sum(p.chosen.startswith("0.9") or p.rejected.startswith("0.9") for p in test)
    assert without > 0
    assert found.unscored_share == pytest.approx(without / 120)
    assert found.n_pairs == 120 - without
    assert found.accuracy.value == 1.0


def test_a_scorer_without_any_score_has_no_figures():
    found = measured(lambda text: None).measures
    assert found.pairs is None and found.ranked is None


def test_ranked_prompts_count_every_ordered_pair_and_half_for_ties():
    assert measured(quality, ranked_prompts=ranked()).measures.ranked.value == 1.0
    assert measured(lambda t: 0.0, ranked_prompts=ranked()).measures.ranked.value == 0.5
    three = [
        Candidate(candidate_id="a", text="a", rank=1),
        Candidate(candidate_id="b", text="b", rank=2),
        Candidate(candidate_id="c", text="c", rank=2),
    ]
    assert pair_agreement(three, np.array([2.0, 3.0, 1.0])) == 0.5
    assert pair_agreement(three[1:], np.array([2.0, 3.0])) is None
    assert pair_agreement(three, np.array([np.nan, 3.0, 1.0])) is None


def test_pairs_of_one_prompt_make_the_interval_wider():
    alone = measured(longer, test=pairs(120)).measures.pairs.accuracy
    grouped = measured(longer, test=pairs(120, per_prompt=12)).measures.pairs.accuracy
    assert (alone.n, grouped.n) == (120, 10)
    assert grouped.value == pytest.approx(alone.value)


def test_agreement_of_a_reward_with_itself_is_whole_and_with_its_negative_nothing():
    one, same = measured(quality, "one"), measured(lambda t: 3 * quality(t), "same")
    other = measured(lambda t: -quality(t), "other")
    full = agreement(one, same, HOW)
    assert (full.spearman.value, full.same_side.value) == (pytest.approx(1.0), 1.0)
    none = agreement(one, other, HOW)
    assert (none.spearman.value, none.same_side.value) == (pytest.approx(-1.0), 0.0)
    assert (full.accuracy_difference.value, none.accuracy_difference.value) == (0.0, 1.0)
    assert full.same_side_high.value == full.same_side_low.value == 1.0


def test_the_fitted_temperature_recovers_the_one_the_outcomes_were_drawn_with():
    draws = np.random.default_rng(0)
    size = draws.exponential(2.0, 4000)
    won = draws.uniform(size=4000) < 1 / (1 + np.exp(-size / 2.5))
    assert c.fit_temperature(np.where(won, size, -size)) == pytest.approx(2.5, rel=0.1)
    assert c.fit_temperature([0.0] * 20) is None
    assert c.fit_temperature([1.0] * 20) is None, "separable: T would go to 0"
    assert c.fit_temperature([1.0, 1.0, 1.0, -0.1]) is None, "too few"
    assert c.fit_temperature(np.where(won, -size, size)) is None


def test_temperature_scaling_repairs_an_overconfident_scorer():
    draws = np.random.default_rng(1)
    size = draws.exponential(2.0, 3000)
    won = draws.uniform(size=3000) < 1 / (1 + np.exp(-size))
    margins = np.where(won, size, -size) * 6
    found = c.calibration(margins[:2000], margins[2000:], np.random.default_rng(2), 200)
    assert found.ece_scaled < 0.03 < 0.1 < found.ece
    assert found.brier_scaled < found.brier
    assert len(found.deciles) == 10
    assert found.deciles[-1].accuracy.value > found.deciles[0].accuracy.value + 0.2


def test_measuring_twice_gives_the_same_figures():
    assert measured(longer).measures == measured(longer).measures


def test_a_response_in_many_pairs_is_asked_once():
    rm, test = RuleRM(quality), pairs(20)
    scores = score_pairs(rm, [*test, *test])
    assert rm.asked == 40
    assert (scores.chosen[:20] == scores.chosen[20:]).all()


def test_the_scorer_is_asked_once_for_each_text_and_once_more_with_filler():
    rm = RuleRM(quality)
    measure_scorer(Scorer("x", "x", rm, "d" * 64), HeldOut(pairs(20), pairs(10), ()), HOW)
    assert rm.asked == 20 * 2 * 2 + 10 * 2
