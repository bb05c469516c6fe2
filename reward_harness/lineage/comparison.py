"""When a metric is worse than its baseline: declared direction, threshold, interval.

The direction is the one the metric declares, never guessed from its name. The change counts in per
cent of the baseline's absolute value, and as such where the baseline is 0 (5 per cent are .05
then). It is a *warning* from the threshold and *critical* from twice the threshold, but only if the
interval of the difference excludes 0; one that cannot be computed makes it *unproven*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Direction = Literal["max", "min", "none"]
Verdict = Literal["critical", "warning", "unproven", "within", "better", "undirected"]
CRITICAL_FACTOR = 2.0
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric as a manifest or an evaluation report states it."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    direction: Direction = "none"


@dataclass(frozen=True, slots=True)
class Change:
    """A metric against its baseline.

    ``worse_by`` is in per cent of the baseline, or of 1 where ``relative`` is false; positive is
    worse. ``low`` and ``high`` bound the difference, value minus baseline.
    """

    value: float
    baseline: float
    worse_by: float
    relative: bool
    low: float | None
    high: float | None
    verdict: Verdict

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "value": self.value,
            "baseline": self.baseline,
            "difference": self.value - self.baseline,
            "difference_ci": None if self.low is None else [self.low, self.high],
            "worse_by_pct" if self.relative else "worse_by_points": self.worse_by,
            "verdict": self.verdict,
        }


def compare(value: Measured, baseline: Measured, threshold_pct: float) -> Change:
    """``value`` judged against ``baseline``; the direction is that of ``value``."""
    sign = {"max": -1.0, "min": 1.0, "none": 0.0}[value.direction]
    scale = abs(baseline.value) or 1.0
    worse_by = 100.0 * sign * (value.value - baseline.value) / scale
    low, high = difference_interval(value, baseline)
    return Change(
        value=value.value,
        baseline=baseline.value,
        worse_by=worse_by + 0.0,
        relative=baseline.value != 0,
        low=low,
        high=high,
        verdict=_verdict(value.direction, worse_by, low, high, threshold_pct),
    )


def difference_interval(
    value: Measured, baseline: Measured
) -> tuple[float, float] | tuple[None, None]:
    """Bounds of value minus baseline from the bounds of each, taken as independent.

    Square-and-add (Newcombe 1998, method 10; Zou and Donner 2008, equation 3). None if one of the
    two has no interval.
    """
    bounds = (value.ci_low, value.ci_high, baseline.ci_low, baseline.ci_high)
    if any(bound is None for bound in bounds):
        return None, None
    low, high, base_low, base_high = (float(bound or 0.0) for bound in bounds)
    difference = value.value - baseline.value
    below = math.hypot(value.value - low, base_high - baseline.value)
    above = math.hypot(high - value.value, baseline.value - base_low)
    return difference - below, difference + above


def _verdict(
    direction: Direction,
    worse_by: float,
    low: float | None,
    high: float | None,
    threshold_pct: float,
) -> Verdict:
    if direction == "none":
        return "undirected"
    if worse_by < 0:
        return "better"
    if worse_by < threshold_pct - ROUNDING or worse_by == 0:
        return "within"
    if low is None or high is None:
        return "unproven"
    if low <= 0 <= high:
        return "within"
    return "critical" if worse_by >= CRITICAL_FACTOR * threshold_pct - ROUNDING else "warning"
