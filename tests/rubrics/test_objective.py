"""The objective, with the numbers of its specification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.rubrics.objective import (
    Weights,
    pair_agreement,
    shrunk_accuracy,
    signed_top_margin,
    tail_of,
    tail_score,
    top_margin,
)


def judged_by(quality) -> np.ndarray:
    q = np.asarray(quality, dtype=float)
    return np.sign(q[:, None] - q[None, :])


def test_spec_numbers():
    scores, judged = np.array([0.9, 0.1]), judged_by([2, 1])
    only_tail = Weights(mu_diverse=0.0)
    assert tail_score(scores, judged, "ab", only_tail).score == pytest.approx(0.555556, abs=1e-6)
    assert tail_score(scores, judged, "ab", Weights(mu_diverse=0, prior=0)).score == 1.0
    same_source = tail_score(scores, judged, ["x", "x"], Weights(mu_diverse=0.4, prior=0))
    assert same_source.score == pytest.approx(1.4)
    assert same_source.diverse_tail_acc == same_source.tail_acc == 1.0
    assert tail_score(scores, judged_by([1, 1]), "ab", only_tail).score == 0.5


def test_one_tail_pair_saturates():
    six = np.arange(6.0)
    full = tail_score(six, judged_by(six), ["s"] * 6, Weights())
    assert full.pairs == 1
    assert full.score == pytest.approx(0.694444, abs=1e-6)


def test_each_metric_is_shrunk_by_its_own_pairs():
    scores, judged = np.array([3.0, 2, 1]), judged_by([3, 2, 1])
    result = tail_score(scores, judged, ["a", "a", "b"], Weights(tail_fraction=1.0))
    assert result.tail_acc == pytest.approx(shrunk_accuracy(3, 3, 8))
    assert result.diverse_tail_acc == pytest.approx(shrunk_accuracy(2, 2, 8))


def test_a_tie_of_the_rubric_is_wrong_and_of_the_judge_left_out():
    tied = tail_score(np.array([1.0, 1.0]), judged_by([2, 1]), "ab", Weights(prior=0))
    assert (tied.tail_acc, tied.pairs) == (0.0, 1)
    assert tail_score(np.array([2.0, 1.0]), judged_by([1, 1]), "ab", Weights()).pairs == 0


def test_tail_size_and_unscored():
    assert len(tail_of(np.arange(16.0), 0.25)) == 4
    assert len(tail_of(np.arange(17.0), 0.25)) == 5
    assert tail_of(np.array([0.1, np.nan, 0.9, 0.5]), 0.25) == [2, 3]


def test_tail_variance_is_over_votes_of_the_tail():
    votes = np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])
    result = tail_score(np.array([0.9, 0.8, 0.1]), judged_by([3, 2, 1]), "abc", Weights(), votes)
    assert result.tail_var == pytest.approx(0.125)


def test_margins():
    scores = np.array([0.2, 0.9, 0.5])
    assert top_margin(scores) == pytest.approx(0.4)
    assert signed_top_margin(scores, lambda i: [3, 2, 1][i]) == pytest.approx(-0.7)


def test_pair_agreement_counts_all_pairs():
    assert pair_agreement(np.array([3.0, 1, 2]), judged_by([3, 2, 1])) == [1.0, 1.0, 0.0]
    assert pair_agreement(np.array([1.0, 1, np.nan]), judged_by([3, 2, 1])) == [0.5]


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0, 50))
def test_accuracy_is_monotone_and_shrinks_towards_a_half(correct, wrong, prior):
    valid = correct + wrong
    found = shrunk_accuracy(correct, valid, prior)
    assert 0 <= found <= 1
    assert found <= shrunk_accuracy(correct + 1, valid + 1, prior) + 1e-12
    assert abs(found - 0.5) <= abs(shrunk_accuracy(correct, valid, 0.0) - 0.5) + 1e-12


@given(st.permutations(list(range(5))))
def test_the_order_of_responses_does_not_matter(order):
    scores, quality = np.array([0.1, 0.7, 0.3, 0.9, 0.5]), np.array([1.0, 4, 2, 3, 5])
    sources = np.array(list("aabbc"))
    plain = tail_score(scores, judged_by(quality), list(sources), Weights(tail_fraction=0.6))
    moved = tail_score(
        scores[order], judged_by(quality[order]), list(sources[order]), Weights(tail_fraction=0.6)
    )
    assert plain == moved
