"""Calibration of a pairwise scorer: is σ(margin / T) the probability that the preferred side wins?

A pair is seen from the side that the scorer prefers: confidence σ(|margin| / T), outcome 1 if that
side was chosen by people, ½ on a tie. T is fitted on the validation split, never on the pairs
reported.
"""

from __future__ import annotations

import numpy as np

from reward_harness.evaluation.statistics import (
    Interval,
    Numbers,
    Vector,
    bootstrap_mean,
    brier_score,
    expected_calibration_error,
)
from reward_harness.manifest import Frozen

DECILES = 10
TEMPERATURE_RANGE = 1e3
"""The fitted T stays within this factor of the margins' own spread, on both sides."""
FEWEST_PAIRS = 10
LEAST_GAIN = 1e-3
"""Nats a pair by which a temperature has to beat guessing."""


class Decile(Frozen):
    """Pairs of similar |margin|: what the scorer claimed and how often it was right."""

    margin: float
    confidence: float
    accuracy: Interval


class Calibration(Frozen):
    """Calibration at T = 1 and at the fitted temperature, on ``n`` pairs."""

    n: int
    ece: float
    brier: float
    temperature: float | None
    temperature_n: int
    ece_scaled: float | None
    brier_scaled: float | None
    deciles: list[Decile]


def confidence_of(margins: Numbers, temperature: float = 1.0) -> Vector:
    """σ(|margin| / T): the scorer's probability for the side that it prefers."""
    from scipy.special import expit

    return np.asarray(expit(np.abs(np.asarray(margins, dtype=np.float64)) / temperature))


def outcomes_of(margins: Numbers) -> Vector:
    """1 where the chosen side scored higher, ½ on a tie, else 0."""
    return (np.sign(np.asarray(margins, dtype=np.float64)) + 1) / 2


def fit_temperature(margins: Numbers) -> float | None:
    """T that minimises the mean of −log σ(margin / T).

    None if no T beats guessing (ln 2): the margins order these pairs no better than chance. None
    too for fewer than ``FEWEST_PAIRS``, and where no pair is ordered wrongly: T would go to 0.
    """
    from scipy.optimize import minimize_scalar

    values = np.asarray(margins, dtype=np.float64)
    if values.size < FEWEST_PAIRS or not (values < 0).any():
        return None
    spread = float(np.sqrt(np.mean(values**2)))

    def loss(log_temperature: float) -> float:
        return float(np.mean(np.logaddexp(0.0, -values / np.exp(log_temperature))))

    centre, reach = np.log(spread), np.log(TEMPERATURE_RANGE)
    found = minimize_scalar(loss, bounds=(centre - reach, centre + reach), method="bounded")
    return float(np.exp(found.x)) if found.fun < np.log(2) - LEAST_GAIN else None


def calibration(
    margins: Numbers, validation_margins: Numbers, rng: np.random.Generator, samples: int
) -> Calibration:
    """Calibration of ``margins``, with the temperature that ``validation_margins`` ask for."""
    values = np.asarray(margins, dtype=np.float64)
    temperature = fit_temperature(validation_margins)
    outcomes = outcomes_of(values)
    plain = confidence_of(values)
    scaled = confidence_of(values, temperature) if temperature else None
    return Calibration(
        n=len(values),
        ece=expected_calibration_error(plain, outcomes),
        brier=brier_score(plain, outcomes),
        temperature=temperature,
        temperature_n=len(np.asarray(validation_margins)),
        ece_scaled=None if scaled is None else expected_calibration_error(scaled, outcomes),
        brier_scaled=None if scaled is None else brier_score(scaled, outcomes),
        deciles=_deciles(values, temperature or 1.0, rng, samples),
    )


def _deciles(
    margins: Vector, temperature: float, rng: np.random.Generator, samples: int
) -> list[Decile]:
    order = np.argsort(np.abs(margins), kind="stable")
    confidence, outcomes = confidence_of(margins, temperature), outcomes_of(margins)
    return [
        Decile(
            margin=float(np.abs(margins[part]).mean()),
            confidence=float(confidence[part].mean()),
            accuracy=bootstrap_mean(outcomes[part], rng, samples=samples),
        )
        for part in np.array_split(order, DECILES)
        if len(part)
    ]
