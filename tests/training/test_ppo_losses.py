"""PPO's arithmetic against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.training import ppo_losses as losses

ALL = torch.ones(1, 2, dtype=torch.bool)


def test_gae_of_two_tokens_without_discount():
    rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.4]])
    advantages, returns = losses.gae(rewards, values, ALL, gamma=1.0, lam=0.95)
    # last: 1 - .4 = .6; first: .4 - .5 + .95 * .6 = .47
    torch.testing.assert_close(advantages, torch.tensor([[0.47, 0.6]]))
    torch.testing.assert_close(returns, torch.tensor([[0.97, 1.0]]))


def test_gae_of_two_tokens_with_discount():
    rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.4]])
    advantages, _ = losses.gae(rewards, values, ALL, gamma=0.9, lam=0.95)
    # first: .9 * .4 - .5 + .9 * .95 * .6 = .373
    torch.testing.assert_close(advantages, torch.tensor([[0.373, 0.6]]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_gae_ignores_padding_on_either_side(side: str):
    real, junk = [[0.0, 1.0], [0.5, 0.4]], [9.0, -7.0]
    rows = [junk + row if side == "left" else row + junk for row in real]
    mask = torch.tensor(
        [[False, False, True, True] if side == "left" else [True, True, False, False]]
    )
    rewards = torch.where(mask, torch.tensor([rows[0]]), 0.0)
    advantages, returns = losses.gae(rewards, torch.tensor([rows[1]]), mask, 1.0, 0.95)
    torch.testing.assert_close(advantages[mask], torch.tensor([0.47, 0.6]))
    assert advantages[~mask].tolist() == returns[~mask].tolist() == [0.0, 0.0]


@given(st.integers(0, 2**31 - 1))
def test_lambda_one_makes_returns_the_discounted_rewards(seed: int):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(1, 5, generator=generator, dtype=torch.float64)
    values = torch.randn(1, 5, generator=generator, dtype=torch.float64)
    _, returns = losses.gae(rewards, values, torch.ones(1, 5, dtype=torch.bool), 0.9, 1.0)
    expected = [sum(0.9 ** (k - t) * float(rewards[0, k]) for k in range(t, 5)) for t in range(5)]
    assert returns[0].tolist() == pytest.approx(expected)


def test_score_falls_on_the_last_token_and_kl_on_each():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    policy = torch.tensor([[-1.0, -2.0, 5.0], [-1.0, -1.0, -1.0]])
    reference = torch.tensor([[-1.5, -1.0, 3.0], [-1.0, -1.0, -3.0]])
    rewards = losses.token_rewards(torch.tensor([2.0, -1.0]), policy, reference, mask, kl_coef=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 2.1, 0.0], [0.0, 0.0, -1.2]]))


def test_whitened_advantages_have_mean_zero_and_variance_one_over_real_tokens():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    white = losses.whiten(torch.tensor([[1.0, 2.0, 100.0], [6.0, -50.0, 3.0]]), mask)
    # mean 3, population variance (4 + 1 + 9) / 3
    expected = torch.tensor([-2.0, -1.0, 3.0]) / math.sqrt(14 / 3)
    torch.testing.assert_close(white[mask], expected)
    assert white[~mask].abs().max() == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.1, 1.0, -1.1, False),
        (1.5, 1.0, -1.2, True),
        (1.5, -1.0, 1.5, False),
        (0.5, -1.0, 0.8, True),
        (0.5, 1.0, -0.5, False),
    ],
)
def test_policy_loss_is_the_pessimistic_one(ratio, advantage, loss, clipped):
    new, old = torch.tensor([math.log(ratio * 0.3)]), torch.tensor([math.log(0.3)])
    got, bit = losses.clipped_policy_loss(new, old, torch.tensor([advantage]), 0.2)
    assert got.item() == pytest.approx(loss)
    assert bit.item() is clipped


@pytest.mark.parametrize(
    ("value", "loss", "clipped"), [(0.6, 0.08, False), (0.9, 0.045, True), (0.3, 0.245, False)]
)
def test_value_loss_keeps_the_larger_error(value, loss, clipped):
    # old value .5, return 1: near = .7 for .9 → ½ · .3²; near = .3 for .3 → ½ · .7²
    got, bit = losses.clipped_value_loss(
        torch.tensor([value]), torch.tensor([0.5]), torch.tensor([1.0]), 0.2
    )
    assert got.item() == pytest.approx(loss)
    assert bit.item() is clipped


def _two_token_loss(theta: float, token: int, old: float, advantage: float) -> float:
    """The clipped loss written out for a vocabulary of two with logits (theta, 0)."""
    chance = 1 / (1 + math.exp(-theta))
    ratio = (chance if token == 0 else 1 - chance) / old
    return -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)


@pytest.mark.parametrize("theta", [-1.0, -0.1, 0.05, 0.3, 1.5])
@pytest.mark.parametrize("advantage", [1.0, -0.7])
@pytest.mark.parametrize("token", [0, 1])
def test_policy_gradient_is_the_finite_difference(theta: float, advantage: float, token: int):
    weight = torch.tensor([theta, 0.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([math.log(0.5)], dtype=torch.float64)
    new = losses.token_logprobs(weight[None], torch.tensor([token]))
    loss, _ = losses.clipped_policy_loss(new, old, torch.tensor([advantage]).double(), 0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), weight)
    up, down = (_two_token_loss(theta + h, token, 0.5, advantage) for h in (1e-5, -1e-5))
    assert gradient[0].item() == pytest.approx((up - down) / 2e-5, abs=1e-7)


@pytest.mark.parametrize("value", [0.1, 0.45, 0.6, 0.95, 1.4])
def test_value_gradient_is_the_finite_difference(value: float):
    def loss(at: torch.Tensor) -> torch.Tensor:
        old, target = torch.tensor([0.5]).double(), torch.tensor([1.0]).double()
        return losses.clipped_value_loss(at, old, target, 0.2)[0].sum()

    at = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(at), at)
    up, down = loss(at.detach() + 1e-5), loss(at.detach() - 1e-5)
    assert gradient.item() == pytest.approx(float(up - down) / 2e-5, abs=1e-7)


def test_entropy_and_logprobs_of_two_tokens():
    logits = torch.tensor([[math.log(3.0), 0.0], [2.0, 2.0]])
    logprobs = losses.token_logprobs(logits, torch.tensor([0, 1]))
    assert logprobs.tolist() == pytest.approx([math.log(0.75), math.log(0.5)])
    expected = [-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), math.log(2)]
    assert losses.token_entropy(logits).tolist() == pytest.approx(expected, abs=1e-6)


def test_kl_estimators_sum_over_a_response_and_agree_in_expectation():
    policy, reference = torch.tensor([0.7, 0.3]).log(), torch.tensor([0.4, 0.6]).log()
    exact = float((policy.exp() * (policy - reference)).sum())
    mask = torch.ones(2, 1, dtype=torch.bool)
    k1 = losses.kl_k1(policy[:, None], reference[:, None], mask)
    k3 = losses.kl_k3(policy[:, None], reference[:, None], mask)
    assert float((policy.exp() * k1).sum()) == pytest.approx(exact)
    assert float((policy.exp() * k3).sum()) == pytest.approx(exact)
    assert k1.min() < 0 <= k3.min()
    both = losses.kl_k1(policy[None], reference[None], torch.ones(1, 2, dtype=torch.bool))
    assert both.item() == pytest.approx(math.log(0.7 / 0.4) + math.log(0.3 / 0.6))


@pytest.mark.parametrize(
    ("kl", "coef"), [(6.0, 0.2), (6.6, 0.2 * 1.01), (60.0, 0.2 * 1.02), (0.0, 0.2 * 0.98)]
)
def test_adaptive_controller_moves_two_percent_at_most(kl: float, coef: float):
    assert losses.KLController("adaptive", 0.2, 6.0).after(kl).coef == pytest.approx(coef)


def test_fixed_controller_stays():
    assert losses.KLController("fixed", 0.2, 6.0).after(60.0).coef == 0.2


def test_running_moments_are_those_of_all_scores():
    first, second = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([10.0, -3.0])
    moments = losses.RunningMoments().with_scores(first).with_scores(second)
    both = torch.cat([first, second]).double()
    assert moments.mean == pytest.approx(float(both.mean()))
    assert moments.squares / moments.count == pytest.approx(float(both.var(correction=0)))


def test_scores_are_clipped_at_that_many_deviations_around_the_mean():
    moments = losses.RunningMoments(count=4, mean=1.0, squares=16.0)  # standard deviation 2
    clipped = moments.clip(torch.tensor([-9.0, 0.0, 3.5]), 1.0)
    assert clipped.tolist() == [-1.0, 0.0, 3.0]


def test_explained_variance_is_one_for_perfect_values_and_none_for_constant_returns():
    returns = torch.tensor([[1.0, 3.0]])
    assert losses.explained_variance(returns, returns, ALL) == pytest.approx(1.0)
    assert losses.explained_variance(torch.zeros(1, 2), returns, ALL) == pytest.approx(0.0)
    assert losses.explained_variance(returns, torch.ones(1, 2), ALL) is None
