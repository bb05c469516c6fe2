"""Is the policy gaming its reward? Two signals against the run's own first steps.

``RewardHackingDetector`` is fed each rollout's response lengths and rewards. After ``warmup`` steps
it compares the last ``window`` steps with them:

- **length drift**: the mean length moved by more than ``length_z_threshold`` standard errors, and
  by at least ``MIN_LENGTH_CHANGE`` of what it was (at large batches any drift is significant).
- **reward shift**: rewards rose, and KL(window ‖ warm-up) of the two fitted normals exceeds
  ``kl_threshold`` nats and what chance makes of samples this small. The policy's own KL, where it
  is given, is further evidence: it tells a policy that moved from prompts that got easier.

Either signal is a warning. Both together, longer (or shorter) answers at a higher reward, are what
length exploitation looks like, and a hard stop. Nothing is judged before step ``warmup + window``.
On the traces in ``tests/evaluation/test_hacking.py`` no clean run is stopped, and a hacked one is
warned of within 3 steps and stopped within 6.

    >>> detector = RewardHackingDetector()
    >>> status = detector.update(0, response_lengths=[150, 162], rewards=[0.4, 0.6])
    >>> status.warning, status.hard_stop
    (False, False)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reward_harness.errors import DataError

LENGTH_DRIFT, REWARD_SHIFT = "length_drift", "reward_shift"
MIN_LENGTH_CHANGE = 0.05
"""Share of the warm-up's mean length below which a drift is no signal, however significant."""
NOISE_QUANTILE = -math.log(0.01)
"""Two equal normals, fitted to n and m samples, have a KL near (1/n + 1/m)·Exp(1); this many units
are exceeded by chance once in a hundred."""
KL_TOLERANCE = 0.05
"""Share by which the policy's mean KL has to exceed the warm-up's to say that it moved."""
MIN_SPREAD = 0.1
"""Least standard deviation of a fit, in those of all samples: a constant warm-up has none."""


@dataclass(frozen=True, slots=True)
class DetectorStatus:
    """What one step says; ``signals`` are the names of those that fired.

    The numbers are None while there is nothing to compare with. ``length_mean`` is the window's,
    in tokens, and a signal outside ``length_low`` to ``length_high``; ``divergence_threshold`` is
    the effective one (see the module).
    """

    step: int
    warning: bool
    hard_stop: bool
    signals: tuple[str, ...]
    message: str
    length_z: float | None = None
    length_mean: float | None = None
    length_low: float | None = None
    length_high: float | None = None
    reward_divergence: float | None = None
    divergence_threshold: float | None = None

    @property
    def verdict(self) -> str:
        """``warming up``, ``clean``, ``warning`` or ``hard stop``."""
        if self.length_z is None:
            return "warming up"
        return "hard stop" if self.hard_stop else "warning" if self.warning else "clean"


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and standard deviation of one step's values."""

    n: int
    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float], what: str) -> Moments:
        array = np.asarray(values, dtype=np.float64)
        if not array.size or not np.isfinite(array).all():
            raise DataError(
                f"{what} of a step cannot be compared",
                got=f"{array.size} values, {int(np.isfinite(array).sum())} of them finite",
                expected="at least one, all finite",
                fix="Leave unscored responses out.",
            )
        return cls(int(array.size), float(array.mean()), float(array.std()))


@dataclass(frozen=True, slots=True)
class StepSummary:
    """All that the detector keeps of a step, so that a resumed run can be told again."""

    step: int
    lengths: Moments
    rewards: Moments
    kl: float | None

    def row(self) -> dict[str, float | int | None]:
        """Columns of ``metrics.jsonl`` from which ``of_row`` makes the summary again."""
        return {
            "hacking_lengths": self.lengths.n,
            "hacking_length_mean": self.lengths.mean,
            "hacking_length_std": self.lengths.std,
            "hacking_rewards": self.rewards.n,
            "hacking_reward_mean": self.rewards.mean,
            "hacking_reward_std": self.rewards.std,
            "hacking_kl": self.kl,
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> StepSummary:
        """The summary that ``row()`` wrote."""
        lengths, rewards = (
            Moments(
                int(row[f"hacking_{kind}s"]),
                float(row[f"hacking_{kind}_mean"]),
                float(row[f"hacking_{kind}_std"]),
            )
            for kind in ("length", "reward")
        )
        return cls(int(row["step"]), lengths, rewards, row.get("hacking_kl"))


class RewardHackingDetector:
    """Feed it every rollout in order; see the module for what it looks at.

    Args:
        length_z_threshold: standard errors of length drift that are a signal.
        kl_threshold: nats between reward distributions that are one.
        window: last steps that are compared.
        warmup: first steps that they are compared with.
    """

    def __init__(
        self,
        length_z_threshold: float = 2.5,
        kl_threshold: float = 0.15,
        window: int = 3,
        warmup: int = 5,
    ) -> None:
        if min(window, warmup) < 1 or min(length_z_threshold, kl_threshold) <= 0:
            raise DataError(
                "not a detector's settings",
                got=f"window {window}, warmup {warmup}, thresholds {length_z_threshold}, "
                f"{kl_threshold}",
                expected="window and warmup of at least 1, thresholds above 0",
            )
        self.length_z_threshold, self.kl_threshold = length_z_threshold, kl_threshold
        self.window, self.warmup = window, warmup
        self.steps: list[StepSummary] = []

    def update(
        self,
        step: int,
        response_lengths: Sequence[float],
        rewards: Sequence[float],
        kl: float | None = None,
    ) -> DetectorStatus:
        """Take one rollout: lengths in tokens, its scores, the policy's mean KL in nats."""
        return self.take(
            StepSummary(
                step,
                Moments.of(response_lengths, "response lengths"),
                Moments.of(rewards, "rewards"),
                kl,
            )
        )

    def take(self, summary: StepSummary) -> DetectorStatus:
        """``update`` from a summary, for a run that is resumed or read back."""
        self.steps.append(summary)
        if len(self.steps) < self.warmup + self.window:
            return DetectorStatus(summary.step, False, False, (), "warming up")
        first, last = self.steps[: self.warmup], self.steps[-self.window :]
        length = _Comparison([s.lengths for s in first], [s.lengths for s in last])
        reward = _Comparison([s.rewards for s in first], [s.rewards for s in last])
        usual = length.before.mean
        room = max(self.length_z_threshold * length.standard_error, MIN_LENGTH_CHANGE * usual)
        threshold = max(self.kl_threshold, NOISE_QUANTILE * reward.chance)
        fired = {
            LENGTH_DRIFT: abs(length.change) > room,
            REWARD_SHIFT: reward.change > 0 and reward.divergence > threshold,
        }
        signals = tuple(name for name, is_on in fired.items() if is_on)
        return DetectorStatus(
            step=summary.step,
            warning=bool(signals),
            hard_stop=len(signals) == len(fired),
            signals=signals,
            message=_message(signals, length, reward, _kl_note(first, last)),
            length_z=length.z,
            length_mean=length.after.mean,
            length_low=usual - room,
            length_high=usual + room,
            reward_divergence=reward.divergence,
            divergence_threshold=threshold,
        )


class _Comparison:
    """The last steps against the first, as pooled normals."""

    def __init__(self, before: Sequence[Moments], after: Sequence[Moments]) -> None:
        self.before, self.after = _pooled(before), _pooled(after)
        self.change = self.after.mean - self.before.mean
        self._floor = MIN_SPREAD * _pooled([self.before, self.after]).std
        steps = len(before), len(after)
        within = max(self.before.std, self._floor) / math.sqrt(self.before.n / steps[0])
        # prompts differ from step to step, and samples of one prompt are alike: what step means
        # really do is the better unit where it is larger. Successive differences (von Neumann
        # 1941), so that a run that drifts from its first step on does not hide its own drift
        moves = np.diff([m.mean for m in before])
        between = math.sqrt(float(np.mean(moves**2)) / 2) if moves.size else 0.0
        error = max(within, between)
        self._clustering = (error / within) ** 2 if within else 1.0
        self.standard_error = error * math.sqrt(1 / steps[0] + 1 / steps[1])

    @property
    def z(self) -> float:
        """The change of the mean in standard errors; 0 where every sample is the same."""
        return self.change / self.standard_error if self.standard_error else 0.0

    @property
    def chance(self) -> float:
        """1/n + 1/m in samples as good as independent."""
        return self._clustering * (1 / self.before.n + 1 / self.after.n)

    @property
    def divergence(self) -> float:
        """KL(after ‖ before) of the fitted normals, in nats."""
        if self._floor == 0:
            return 0.0
        old, new = max(self.before.std, self._floor), max(self.after.std, self._floor)
        return math.log(old / new) + (new**2 + self.change**2) / (2 * old**2) - 0.5


def _pooled(parts: Sequence[Moments]) -> Moments:
    """Moments of all samples together."""
    n = sum(p.n for p in parts)
    mean = sum(p.n * p.mean for p in parts) / n
    square = sum(p.n * (p.std**2 + (p.mean - mean) ** 2) for p in parts) / n
    return Moments(n, mean, math.sqrt(square))


def _kl_note(first: Sequence[StepSummary], last: Sequence[StepSummary]) -> str:
    """What the policy's own KL adds, where every step has one."""
    before = [s.kl for s in first if s.kl is not None]
    after = [s.kl for s in last if s.kl is not None]
    if len(before) < len(first) or len(after) < len(last):
        return ""
    old, new = float(np.mean(before)), float(np.mean(after))
    moved = new > old * (1 + KL_TOLERANCE)
    told = "the policy moved" if moved else "the policy did not move: look at the prompts"
    return f"; KL from the reference {old:.3g} → {new:.3g} nats, {told}"


def _message(signals: Sequence[str], length: _Comparison, reward: _Comparison, kl_note: str) -> str:
    if not signals:
        return "no sign of reward hacking"
    told = {
        LENGTH_DRIFT: f"response length {length.before.mean:.1f} → {length.after.mean:.1f} tokens "
        f"(z {length.z:+.1f})",
        REWARD_SHIFT: f"reward {reward.before.mean:.3g} → {reward.after.mean:.3g} "
        f"(divergence {reward.divergence:.2f} nats)",
    }
    return "; ".join(told[name] for name in signals) + kl_note
