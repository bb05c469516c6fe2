"""The arithmetic of PPO for language models: pure tensor functions, no model and no I/O.

Shapes: ``B`` responses, ``T`` tokens of the longest, ``N`` response tokens, ``V`` vocabulary. A
``mask`` is (B, T) bool, true on response tokens, which stand together at either side; every row
has at least one, and what lies outside the mask is never read.

Sources: Schulman et al. 2017 (arXiv 1707.06347, eq. 7 and 9) for the clipped losses, Schulman et
al. 2015 (arXiv 1506.02438, eq. 16) for GAE, Ziegler et al. 2019 (arXiv 1909.08593, section 2.2) for
the KL reward and its controller, Schulman 2020 ("Approximating KL Divergence") for k1 and k3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

KL_STEP = 0.1
"""K_β of Ziegler et al. 2019."""

KL_ERROR_LIMIT = 0.2
"""Where the controller's error is cut (same source): β moves by at most 2 % an update."""


def token_logprobs(logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """Log-probability of each token under softmax(logits): (N, V), (N,) → (N,)."""
    return -torch.nn.functional.cross_entropy(logits_NV, tokens_N, reduction="none")


def token_entropy(logits_NV: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, log Z − E[logit]: (N, V) → (N,)."""
    expected = torch.linalg.vecdot(torch.softmax(logits_NV, dim=-1), logits_NV)
    return torch.logsumexp(logits_NV, dim=-1) - expected


def masked_mean(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the response tokens of all rows: (B, T) → ()."""
    return torch.where(mask_BT, x_BT, 0.0).sum() / mask_BT.sum()


def whiten(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean 0 and population variance 1 over the response tokens, 0 elsewhere: (B, T) → (B, T)."""
    mean = masked_mean(x_BT, mask_BT)
    variance = masked_mean((x_BT - mean) ** 2, mask_BT)
    return torch.where(mask_BT, (x_BT - mean) * torch.rsqrt(variance + 1e-8), 0.0)


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """r − 1 − log r with r = π_ref / π, elementwise: never negative, its mean is KL(π ‖ π_ref)."""
    log_ratio = reference - logprobs
    return torch.expm1(log_ratio) - log_ratio


def kl_k1(logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """log π − log π_ref summed over each response, unbiased: (B, T) → (B,)."""
    return torch.where(mask_BT, logprobs_BT - reference_BT, 0.0).sum(-1)


def kl_k3(logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """``k3`` summed over each response: (B, T) → (B,)."""
    return torch.where(mask_BT, k3(logprobs_BT, reference_BT), 0.0).sum(-1)


def token_rewards(
    scores_B: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor, kl_coef: float
) -> Tensor:
    """−β·(log π − log π_ref) on every token, and the score on the response's last: (B, T)."""
    rewards = torch.where(mask_BT, -kl_coef * (logprobs_BT - reference_BT), 0.0)
    place = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last = torch.where(mask_BT, place, -1).argmax(-1, keepdim=True)
    return rewards.scatter_add(1, last, scores_B[:, None].to(rewards.dtype))


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages, and the returns that the value head learns: both (B, T), 0 outside the mask.

    δ_t = r_t + γ·V_{t+1} − V_t, A_t = δ_t + γλ·A_{t+1}, return_t = A_t + V_t; V and A are 0 beyond
    the last token.
    """
    values = torch.where(mask_BT, values_BT, 0.0)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    columns: list[Tensor] = []
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards_BT[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(mask_BT[:, t], delta + gamma * lam * next_advantage, 0.0)
        next_value = values[:, t]
        columns.append(next_advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    return advantages, advantages + values


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """−min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A) with ρ = π / π_old, and where it was clipped."""
    ratio = torch.exp(logprobs - old_logprobs)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, clipped), clipped > plain


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """½·max((V − R)², (V_near − R)²) with V_near within ± clip of the old V, and where it bit."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    plain, clipped = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.maximum(plain, clipped), clipped > plain


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float | None:
    """1 − Var(R − V) / Var(R) over the response tokens; None where the returns do not vary."""
    returns, errors = returns_BT[mask_BT], (returns_BT - values_BT)[mask_BT]
    variance = returns.var(correction=0)
    return float(1 - errors.var(correction=0) / variance) if variance > 1e-12 else None


@dataclass(frozen=True, slots=True)
class KLController:
    """β and how it moves: ``adaptive`` by β·(1 + K_β·clip(KL / target − 1, ±.2)), or ``fixed``."""

    kind: Literal["adaptive", "fixed"]
    coef: float
    target: float

    def after(self, kl: float) -> KLController:
        """The controller after a rollout whose mean KL a response was ``kl``."""
        if self.kind == "fixed":
            return self
        error = min(max(kl / self.target - 1, -KL_ERROR_LIMIT), KL_ERROR_LIMIT)
        return replace(self, coef=self.coef * (1 + KL_STEP * error))


@dataclass(frozen=True, slots=True)
class RunningMoments:
    """Count, mean and sum of squared deviations of all scores so far (Chan et al. 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def with_scores(self, scores_B: Tensor) -> RunningMoments:
        """The moments with these scores added."""
        scores = scores_B.double()
        n, mean = scores.numel(), float(scores.mean())
        total, shift = self.count + n, mean - self.mean
        within = float(((scores - mean) ** 2).sum())
        between = shift**2 * self.count * n / total
        return RunningMoments(total, self.mean + shift * n / total, self.squares + within + between)

    def clip(self, scores_B: Tensor, stds: float) -> Tensor:
        """Scores kept within ``stds`` standard deviations of the mean of all scores so far."""
        reach = stds * (self.squares / self.count) ** 0.5
        return scores_B.clamp(self.mean - reach, self.mean + reach)
