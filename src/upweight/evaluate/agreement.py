"""Predicted against refitted changes, any scores against any truth: slope, Pearson and Spearman, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from upweight.errors import NonFiniteInput, ShapeError, SignWarning, warn
from upweight.evaluate.arguments import read_numbers
from upweight.evaluate.estimates import DRAWS, Estimate, bootstrapped
from upweight.evaluate.fingerprint import fingerprint


@dataclass(frozen=True, repr=False)
class Agreement:
    """How predicted changes follow refitted ones, over all queries and changes.

    Attributes:
        slope: refitted change per unit of predicted change, by least squares: 1 when the scale is right.
        pearson, spearman: correlation of the changes, and of their ranks.
        queries, changes: how many of each.
    """

    slope: Estimate
    pearson: Estimate
    spearman: Estimate
    queries: int
    changes: int

    def __repr__(self) -> str:
        return f"Agreement over {self.queries} queries × {self.changes} changes: slope {self.slope!r}, Pearson {self.pearson!r}, Spearman {self.spearman!r}."


def loo_agreement(predicted: Any, refitted: Any, draws: int = DRAWS, seed: int = 0) -> Agreement:
    """Slope, Pearson and Spearman of refitted on predicted changes, with intervals by a bootstrap over queries and changes.

    Args:
        predicted: (m, k) effects, ours or another library's, in the unit and sign of a change: see docs/sign-and-scale.md.
        refitted: (m, k), what really happened under the same changes.

    Returns:
        Agreement; NaN where nothing is predicted to move, or nothing moves.

    Raises:
        ShapeError, NonFiniteInput: arrays that do not line up, or are not finite.

    Warns:
        SignWarning: the correlation is clearly negative.
    """
    a, b = finite_pair(predicted, refitted)
    found = agreement_of(a, b, draws, seed)
    warn_of_sign(found.pearson, "changes")
    return found


def agreement_of(a: np.ndarray, b: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Agreement:
    """The same of arrays that line up, without a word about signs."""
    found = _three(a, b)

    def of(rows: np.ndarray, columns: np.ndarray) -> tuple[float, ...]:
        return _three(a[np.ix_(rows, columns)], b[np.ix_(rows, columns)])

    values = bootstrapped(of, (a.shape[0], a.shape[1]), draws, seed)
    source = fingerprint("loo", b, draws, seed)
    slope, pearson, spearman = (Estimate(value, values[:, k], source) for k, value in enumerate(found))
    return Agreement(slope, pearson, spearman, a.shape[0], a.shape[1])


def finite_pair(predicted: Any, refitted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as finite (m, k) arrays of one shape."""
    a, b = read_numbers(predicted, "predicted changes"), read_numbers(refitted, "refitted changes")
    if a.ndim != 2 or a.shape != b.shape:
        turned = " It looks transposed; pass scores.T." if a.shape == b.shape[::-1] and a.ndim == 2 else ""
        raise ShapeError(
            f"found predicted changes of shape {a.shape} and refitted ones of shape {b.shape}. Expected (m, k) for both: a row a query, a column a change.{turned}"
        )
    for name, values in (("predicted", a), ("refitted", b)):
        if not np.isfinite(values).all():
            raise NonFiniteInput(
                f"found {int((~np.isfinite(values)).sum())} {name} changes that are not finite. Expected finite numbers; find where they come from first."
            )
    return a, b


def warn_of_sign(estimate: Estimate, what: str) -> None:
    """Say so where scores run against the truth."""
    if estimate.high < 0:
        warn(
            f"the scores correlate with the {what} at {estimate!r}, clearly below zero. Expected a predicted change of the measurement if the point is left out (positive: it would rise); negate scores whose sign says what more of the point does.",
            SignWarning,
        )


def _three(predicted: np.ndarray, refitted: np.ndarray) -> tuple[float, float, float]:
    x, y = predicted.ravel(), refitted.ravel()
    ranks = stats.rankdata(x), stats.rankdata(y)
    return slope_of(x, y), pearson_of(x, y), pearson_of(*ranks)


def slope_of(x: np.ndarray, y: np.ndarray) -> float:
    """Of y on x by least squares; NaN where x does not move."""
    about = x - x.mean()
    size = float(about @ about)
    return float(about @ (y - y.mean())) / size if np.ptp(x) and size else float("nan")


def pearson_of(x: np.ndarray, y: np.ndarray) -> float:
    """Linear correlation; NaN where either does not move."""
    if not np.ptp(x) or not np.ptp(y):
        return float("nan")
    a, b = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else float("nan")
