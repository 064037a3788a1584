"""The seed-noise floor: how many retrainings it takes to see an effect through the chance in training.

A two-sample t-test of n retrainings with the change against n without it, each from a seed of its own:

    power(n) = P(|T| > t_{1−α/2, 2n−2}),  T noncentral t with 2n − 2 degrees of freedom and δ = |Δ|/σ · √(n/2)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy import optimize, stats

from upweight.errors import ConfigError, NonFiniteInput, ShapeError
from upweight.evaluate.arguments import read_numbers, read_share

POWER, LEVEL = 0.8, 0.05
"""The usual ones: an effect is seen in four of five experiments, and seen where there is none in one of twenty."""

EXACT = 100
"""Retrainings a side up to which the noncentral t is asked; beyond, the normal distribution is as good."""

NODES, TAIL = 200, 1e-14
"""Points of the quadrature over the estimated deviation, and the probability left out at each end: power to about 1e-10."""

MOST = 10**6
"""Retrainings a side beyond which an effect is called invisible."""


@dataclass(frozen=True, repr=False)
class NoiseFloor:
    """What chance in training does to every measurement, and what it takes to see effects through it.

    Attributes:
        deviation: σ, (m,): the standard deviation over seeds of every measurement, nothing else changed.
        needed: (m, k) whole numbers: retrainings with the change, and as many without, in which a two-sample t-test
            finds the effect with this power at this level; 1e6 for more than that, and for no effect at all.
        visible: (m,): the smallest effect that as many seeds a side as were run would show.
        runs: seeds that σ was measured with.
    """

    deviation: np.ndarray
    needed: np.ndarray
    visible: np.ndarray
    runs: int
    power: float
    level: float

    @cached_property
    def share(self) -> float:
        """Share of the effects that as many seeds a side as were run would show."""
        return float((self.needed <= self.runs).mean())

    @property
    def words(self) -> str:
        """The result in one sentence."""
        typical = np.median(self.needed)
        many = "more than a million" if typical >= MOST else f"{typical:,.0f}"
        return f"of the effects {self.share:.0%} could be seen with {self.runs} seeds a side; the median one needs {many} retrainings a side (two-sample t-test, level {self.level:g}, power {self.power:g})"

    def __repr__(self) -> str:
        return f"NoiseFloor: {self.words}."


def noise_floor(effects: Any, outputs: Any, power: float = POWER, level: float = LEVEL) -> NoiseFloor:
    """How many retrainings would be needed to see each effect.

    Args:
        effects: (m, k), predicted or refitted changes of m measurements.
        outputs: (s, m), the measurements after s retrainings that differ in their seed alone, s at least 2.
        power, level: chance of seeing an effect that is there, and of seeing one that is not.

    Raises:
        ShapeError, NonFiniteInput, ConfigError: arrays that do not line up, fewer than two seeds, chances beyond (0, 1).

    Error and cost:
        Exact for normal noise of one size with and without the change. σ itself is known to about 1/√(2s − 2). Retrainings that
        share their seed pair by pair may need fewer: then σ of the differences counts, and √n stands for √(n/2).
    """
    changes, runs = read_numbers(effects, "effects"), read_numbers(outputs, "outputs")
    power, level = read_share(power, "power"), read_share(level, "level")
    if runs.ndim != 2 or changes.ndim != 2 or runs.shape[1] != changes.shape[0]:
        raise ShapeError(
            f"noise_floor found effects of shape {changes.shape} and outputs of shape {runs.shape}. Expected (m, k) and (s, m): m measurements, s seeds."
        )
    if len(runs) < 2 or not (0 < level < power < 1):
        raise ConfigError(
            f"noise_floor found {len(runs)} seeds, power={power}, level={level}. Expected at least 2 seeds and 0 < level < power < 1."
        )
    if not (np.isfinite(runs).all() and np.isfinite(changes).all()):
        raise NonFiniteInput("noise_floor found effects or outputs that are not finite. Expected finite numbers.")
    deviation = runs.std(0, ddof=1)
    needed = retrainings_needed(np.abs(changes), deviation[:, None], power, level)
    visible = deviation * smallest_seen(len(runs), power, level)
    return NoiseFloor(deviation, needed, visible, len(runs), power, level)


def retrainings_needed(effects: np.ndarray, deviation: np.ndarray, power: float, level: float) -> np.ndarray:
    """The smallest n ≥ 2 a side with that power, element by element; 2 where there is no noise at all.

    n ≈ 2(z_{1−α/2} + z_power)² σ²/Δ² + z²_{1−α/2}/4   beyond a hundred, to within one
    """
    quiet = np.broadcast_to(deviation, effects.shape) == 0
    sizes = np.divide(effects, deviation, out=np.full(effects.shape, np.inf), where=~quiet)
    sizes = np.where(effects == 0, 0.0, sizes)
    smallest = np.asarray([smallest_seen(n, power, level) for n in range(2, EXACT + 1)])
    found = 2 + np.searchsorted(-smallest, -sizes)
    edge = stats.norm.ppf(1 - level / 2)
    with np.errstate(divide="ignore", over="ignore"):
        many = np.ceil(2 * ((edge + stats.norm.ppf(power)) / sizes) ** 2 + edge**2 / 4)
    return np.where(found <= EXACT, found, np.clip(many, EXACT, MOST)).astype(int)


@lru_cache(maxsize=4096)
def smallest_seen(runs: int, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest effect, in σ, that a two-sample t-test of this many a side finds with this power."""
    seen = _power_of(runs, level)
    low = high = 0.2 * (stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)) * (2 / runs) ** 0.5
    while seen(high) < power:
        low, high = high, 1.5 * high
    if high == low:
        return low
    found = optimize.brentq(lambda size: seen(size) - power, low, high, xtol=1e-12)
    return float(found)  # pyright: ignore


def _power_of(runs: int, level: float) -> Callable[[float], float]:
    """Effect in σ ↦ P(|T| > edge), T = (z + δ)/s with s² = χ²/(2n − 2): the mean over s of two normal tails, by quadrature.

    SciPy's noncentral t is NaN at many of these arguments.
    """
    freedom = 2 * runs - 2
    edge = stats.t.ppf(1 - level / 2, freedom)
    first, last = np.sqrt(stats.chi2.ppf([TAIL, 1 - TAIL], freedom) / freedom)
    places, shares = np.polynomial.legendre.leggauss(NODES)
    s = first + (last - first) * (places + 1) / 2
    mass = shares * (last - first) / 2 * stats.chi2.pdf(freedom * s**2, freedom) * 2 * freedom * s

    def seen(size: float) -> float:
        away = size * (runs / 2) ** 0.5
        return float(mass @ (stats.norm.cdf(away - edge * s) + stats.norm.cdf(-away - edge * s)))

    return seen
