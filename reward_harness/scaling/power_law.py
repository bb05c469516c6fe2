"""``L(x) = floor + scale * x**-exponent`` (Kaplan et al., arXiv 2001.08361; the floor: Hoffmann et
al., arXiv 2203.15556), fitted to measurements by least squares.

Measurements of one seed share its held-out data, so that a seed is easier or harder at every size.
``levelled`` takes that off: what is left differs by size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reward_harness.errors import DataError
from reward_harness.evaluation.statistics import CONFIDENCE, Interval

FEWEST_SIZES = 4


def levelled(points: Sequence[tuple[int, float, float]]) -> tuple[list[tuple[float, float]], int]:
    """(seed, x, y) to (x, y less its seed's mean and plus the mean of all), and how many levels
    were taken off; points as they are where some seed lacks a size.
    """
    by_seed: dict[int, dict[float, float]] = {}
    for seed, x, y in points:
        by_seed.setdefault(seed, {})[x] = y
    sizes = {x for _, x, _ in points}
    if any(found.keys() != sizes for found in by_seed.values()) or len(by_seed) < 2:
        return [(x, y) for _, x, y in points], 0
    every = float(np.mean([y for _, _, y in points]))
    level = {seed: float(np.mean([*found.values()])) for seed, found in by_seed.items()}
    return [(x, y - level[seed] + every) for seed, x, y in points], len(by_seed) - 1


def power_law(
    points: Sequence[tuple[float, float]], floor: float | None = None, levels: int = 0
) -> tuple[float, float, Interval]:
    """(floor, scale, exponent) of the law; ``floor`` None fits it.

    The exponent's interval is Student's t on what is left of the points after the law's parameters
    and ``levels``. ``DataError`` for fewer than four sizes with a floor to fit, or two with one
    given, and where nothing is left.
    """
    from scipy.optimize import curve_fit
    from scipy.stats import t as student

    sizes = sorted({x for x, _ in points})
    needed = FEWEST_SIZES if floor is None else 2
    if len(sizes) < needed or sizes[0] <= 0:
        raise DataError(
            "too few sizes for a power law", got=len(sizes), expected=f"{needed} positive sizes"
        )
    x, y = (np.array(column) for column in zip(*points, strict=True))
    parameters = 3 if floor is None else 2
    free = len(x) - parameters - levels
    if free < 1:
        raise DataError(
            "too few points for a power law", got=len(x), expected=f"over {parameters + levels}"
        )
    unit = float(np.exp(np.log(x).mean()))
    start = [float(np.ptp(y)) or 1e-6, 0.5, *([float(y.min())] if floor is None else [])]

    def law(x: np.ndarray, scale: float, exponent: float, low: float = floor or 0.0) -> np.ndarray:
        return low + scale * (x / unit) ** -exponent

    try:
        found, spread = curve_fit(law, x, y, p0=start, maxfev=20_000)
    except RuntimeError as error:
        raise DataError("the power law does not fit", got=str(error)) from error
    error = float(np.sqrt(spread[1, 1] * (free + levels) / free))
    half = error * float(student.ppf((1 + CONFIDENCE) / 2, free))
    exponent = Interval(float(found[1]), float(found[1]) - half, float(found[1]) + half, len(x))
    low = float(found[2]) if floor is None else floor
    return low, float(found[0]) * unit ** float(found[1]), exponent
