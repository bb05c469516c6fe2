"""The Bradley-Terry objective and the head that starts training: pure functions on tensors.

-log σ(r_c − r_r) (Bradley & Terry 1952; Ouyang et al., arXiv 2203.02155, equation 1), optionally
with λ·(r_c + r_r)² that keeps rewards near zero (Eisenstein et al., arXiv 2312.09244). The warm
start is the same objective on frozen features: convex, solved to its optimum, with ridge.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

RIDGE = 0.5
"""Times half the squared norm of the weights on standardised differences. On 1,560 hh-rlhf pairs,
six splits: held-out accuracy .580 at .01, .607 at .1, .621 at .3 and at 1."""

SPREAD_FLOOR = 0.1
"""Of the median spread."""


def bradley_terry_loss(
    chosen_B: Tensor, rejected_B: Tensor, center: float = 0.0, margin_B: Tensor | None = None
) -> Tensor:
    """Mean loss of pairs, ln 2 for equal rewards; ``margin_B`` is taken off each difference."""
    difference = chosen_B - rejected_B
    if margin_B is not None:
        difference = difference - margin_B
    return -logsigmoid(difference).mean() + center * ((chosen_B + rejected_B) ** 2).mean()


def warm_head(
    chosen_NH: Tensor,
    rejected_NH: Tensor,
    ridge: float = RIDGE,
    margin_N: Tensor | None = None,
) -> Tensor:
    """Head weights (H,) that minimise the Bradley-Terry loss of frozen features with a ridge;
    ``margin_N`` is taken off each difference of rewards.

    Features are scaled by the spread of their differences for the fit only. Some backbones (MiniLM)
    have dimensions that are constant up to rounding: the floor keeps their weights from exploding.
    Full-batch L-BFGS in float64: the same features give the same head.
    """
    difference = (chosen_NH - rejected_NH).double()
    spread = difference.square().mean(dim=0).sqrt()
    scale = spread.clamp(min=max(SPREAD_FLOOR * float(spread.median()), 1e-8))
    scaled = difference / scale
    margin = 0.0 if margin_N is None else margin_N.double()
    weights = torch.zeros(scaled.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = -logsigmoid(scaled @ weights - margin).mean() + 0.5 * ridge * weights.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return (weights.detach() / scale).float()
