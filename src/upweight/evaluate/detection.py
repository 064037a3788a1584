"""Wrong labels found by a score: how many for how much looking, and the area under that curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from upweight.displays.axes import axes_or_new
from upweight.errors import ConfigError, NonFiniteInput, ShapeError
from upweight.evaluate.agreement import warn_of_sign
from upweight.evaluate.arguments import read_numbers
from upweight.evaluate.estimates import DRAWS, Estimate, bootstrapped
from upweight.evaluate.fingerprint import fingerprint

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
"""Fractions checked of the table: those of [KL17 5.4]."""


@dataclass(frozen=True, repr=False)
class Detection:
    """How a score finds wrong labels.

    Attributes:
        auc: the chance that a wrong label scores above a right one, ties counting half.
        found: (n + 1,): the expected share of wrong labels among the first 0, 1, … n points looked at, ties in random order.
        wrong: how many wrong labels there are.
    """

    auc: Estimate
    found: np.ndarray
    wrong: int

    def fixed(self, checked: float | int) -> float:
        """Share of the wrong labels that are fixed once this share of all points is checked, the highest scores first."""
        if not 0 <= checked <= 1:
            raise ConfigError(f"fixed() found checked={checked}. Expected a share between 0 and 1.")
        places = np.linspace(0, 1, len(self.found))
        return float(np.interp(checked, places, self.found))

    def table(self, shares: tuple[float, ...] = SHARES) -> pd.DataFrame:
        """Fraction checked and fraction fixed, with what random order would fix beside it."""
        import pandas as pd

        return pd.DataFrame({"checked": shares, "fixed": [self.fixed(share) for share in shares], "random": shares})

    def plot(self, axes: Axes | None = None) -> Axes:
        """Fraction fixed against fraction checked."""
        axes = axes_or_new(axes, (4.6, 4.2))
        places = np.linspace(0, 1, len(self.found))
        axes.plot(places, self.found, color="#1f5fa8")
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=1)
        axes.set(xlabel="fraction of points checked", ylabel="fraction of wrong labels fixed")
        axes.set_title(f"AUC {self.auc!r}", fontsize=10)
        return axes

    def __repr__(self) -> str:
        return f"Detection of {self.wrong} wrong labels among {len(self.found) - 1:,}: AUC {self.auc!r}, {self.fixed(0.1):.0%} fixed once 10% are checked."


def mislabel_detection(scores: Any, wrong: Any, draws: int = DRAWS, seed: int = 0) -> Detection:
    """How well a score finds wrong labels that are known: AUC, and the fraction fixed against the fraction checked [KL17 5.4].

    Args:
        scores: (n,), higher is more suspicious: ``study.self_influence()``, a loss, another library's score.
        wrong: (n,) booleans or zeros and ones, or the positions of the wrong labels.

    Returns:
        Detection with .auc, .fixed(share), .table() and .plot(); the interval is of a bootstrap over points, of wrong and of right
        labels each by itself.

    Raises:
        ShapeError, NonFiniteInput: scores that are not (n,), or not finite. ConfigError: no wrong label, or none that is right.

    Warns:
        SignWarning: wrong labels clearly score below right ones.
    """
    values = read_numbers(scores, "scores")
    if values.ndim != 1:
        raise ShapeError(
            f"mislabel_detection found scores of shape {values.shape}. Expected (n,): one a training point."
        )
    if not np.isfinite(values).all():
        raise NonFiniteInput(f"mislabel_detection found {int((~np.isfinite(values)).sum())} scores that are not finite.  Expected finite numbers.")  # fmt: skip
    bad = _read_wrong(wrong, len(values))
    low, high = values[~bad], values[bad]
    found = bootstrapped(lambda a, b: (_auc(low[a], high[b]), 0.0), (len(low), len(high)), draws, seed)[:, 0]
    source = fingerprint("detection", bad, draws, seed)
    auc = Estimate(_auc(low, high), found, source)
    warn_of_sign(Estimate(auc.value - 0.5, found - 0.5, source), "wrong labels, less a half,")
    return Detection(auc, _found(values, bad), int(bad.sum()))


def _auc(low: np.ndarray, high: np.ndarray) -> float:
    ranks = stats.rankdata(np.concatenate([low, high]))
    above = ranks[len(low) :].sum() - len(high) * (len(high) + 1) / 2
    return float(above / (len(low) * len(high)))


def _found(values: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Share found after every look: within a tie each look finds the tie's own rate."""
    _, groups, sizes = np.unique(-values, return_inverse=True, return_counts=True)
    rate = np.bincount(groups, weights=wrong) / sizes
    return np.concatenate([[0.0], np.cumsum(np.repeat(rate, sizes)) / wrong.sum()])


def _read_wrong(wrong: Any, count: int) -> np.ndarray:
    try:
        given = np.asarray(wrong)
    except (TypeError, ValueError, RuntimeError):
        given = read_numbers(wrong, "wrong labels")  # says what is wrong with them
    if given.dtype.kind not in "biuf" or given.ndim != 1 or (given.astype(float) != np.rint(given)).any():
        raise ShapeError(
            f"mislabel_detection found wrong of type {given.dtype} and shape {given.shape}. Expected ({count},) booleans, or whole positions."
        )
    if given.dtype == bool or (given.shape == (count,) and np.isin(given, (0, 1)).all()):
        bad = given.astype(bool)
    else:
        bad = np.zeros(count, dtype=bool)
        if given.size and (given.min() < 0 or given.max() >= count):
            raise ShapeError(f"mislabel_detection found positions up to {given.max()} for {count} scores. Expected 0 to {count - 1}.")  # fmt: skip
        bad[given.astype(int)] = True
    if bad.shape != (count,):
        raise ShapeError(f"mislabel_detection found wrong of shape {given.shape} for {count} scores. Expected ({count},) booleans, or positions.")  # fmt: skip
    if not bad.any() or bad.all():
        raise ConfigError(
            f"mislabel_detection found {int(bad.sum())} wrong labels among {count}. Expected some wrong and some right ones."
        )
    return bad
