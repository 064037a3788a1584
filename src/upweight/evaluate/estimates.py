"""Numbers with their uncertainty: two-way bootstrap, and two methods compared on the same resamples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from upweight.errors import ConfigError
from upweight.evaluate.arguments import read_count, read_share

DRAWS = 1000
"""Resamples: the ends of a 95 % interval then rest on 25 of them each."""

LEVEL = 0.95

ALIVE = 0.5
"""Share of the resamples that must give a number before an interval is stated."""


@dataclass(frozen=True, repr=False)
class Estimate:
    """A number, its value on every resample, and what was resampled.

    Attributes:
        source: estimates of one source share their resamples, draw by draw, so that their difference has an interval.
    """

    value: float
    draws: np.ndarray = field(repr=False)
    source: str

    @property
    def low(self) -> float:
        """The lower end of the 95 % percentile interval; NaN where most resamples give no number."""
        return self._quantile((1 - LEVEL) / 2)

    @property
    def high(self) -> float:
        """The upper end."""
        return self._quantile((1 + LEVEL) / 2)

    def _quantile(self, share: float) -> float:
        alive = self.draws[np.isfinite(self.draws)]
        return float(np.quantile(alive, share)) if len(alive) > ALIVE * len(self.draws) else float("nan")

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def resamples(rows: int, columns: int, draws: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns drawn again with replacement, both at once: each is a sample from what might have been asked.

    Raises:
        ConfigError: fewer than two draws.
    """
    if read_count(draws, "draws", None) < 2:
        raise ConfigError(f"a bootstrap found draws={draws}. Expected at least 2; 1000 is a good number.")
    generator = np.random.default_rng(read_count(seed, "seed", 0))
    return [(generator.integers(rows, size=rows), generator.integers(columns, size=columns)) for _ in range(draws)]


def bootstrapped(
    function: Callable[[np.ndarray, np.ndarray], tuple[float, ...]], shape: tuple[int, int], draws: int, seed: int
) -> np.ndarray:
    """Several numbers of rows and columns on every resample, (draws, numbers)."""
    return np.asarray([function(rows, columns) for rows, columns in resamples(*shape, draws, seed)])


@dataclass(frozen=True, repr=False)
class Comparison:
    """One method's number less another's, on the same resamples.

    Attributes:
        difference: first less second, with its paired interval.
        margin: by how much the first may be worse and still count as not inferior.
    """

    difference: Estimate
    margin: float | int

    @property
    def better(self) -> bool:
        """The whole interval lies above zero."""
        return self.difference.low > 0

    @property
    def worse(self) -> bool:
        """The whole interval lies below zero."""
        return self.difference.high < 0

    @property
    def not_inferior(self) -> bool:
        """The whole interval lies above minus the margin: a one-sided test at 2.5 %."""
        return self.difference.low > -self.margin

    @property
    def words(self) -> str:
        """The result in one sentence."""
        if self.better:
            verdict = "better"
        elif self.worse:
            verdict = "worse" + (f", by less than the margin of {self.margin:g}" if self.not_inferior else "")
        else:
            verdict = "no difference shown" + (f", not inferior by {self.margin:g}" if self.not_inferior else "")
        return f"difference {self.difference!r}: {verdict}"

    def __repr__(self) -> str:
        return f"Comparison, {self.words}."


def compare(first: Estimate, second: Estimate, margin: float | int = 0.02) -> Comparison:
    """Two methods on the same truth: the difference, with a paired bootstrap interval.

    Args:
        first, second: estimates from the same truth, draws and seed: ``compare(lds(ours, truth).score, lds(theirs, truth).score)``.
        margin: of non-inferiority, in the estimates' unit, stated before looking.

    Returns:
        Comparison with .difference, .better, .worse and .not_inferior; positive means that the first is larger.

    Raises:
        ConfigError: estimates that were not resampled together, or a margin below zero.
    """
    for one in (first, second):
        if not isinstance(one, Estimate):
            raise ConfigError(
                f"compare found {type(one).__name__}. Expected two estimates, such as lds(ours, truth).score and lds(theirs, truth).score."
            )
    if not read_share(margin, "margin") >= 0:
        raise ConfigError(f"compare found margin={margin}. Expected zero or more, in the unit of the estimates.")
    if first.source != second.source or first.draws.shape != second.draws.shape:
        raise ConfigError(
            "compare found estimates of two sources. Expected the same truth, draws and seed for both, so that they share their resamples; score both against one truth."
        )
    return Comparison(Estimate(first.value - second.value, first.draws - second.draws, first.source), margin)
