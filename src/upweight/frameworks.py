"""Studies of what other libraries fitted: one function a library."""

from __future__ import annotations

from typing import Any

from upweight.adapters.sklearn import adapt_sklearn
from upweight.fitted import Settings
from upweight.study import Study


def from_sklearn(
    fitted: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    ids: Any = None,
    protocol: str = "as_refit",
    solver: str = "auto",
    damping: float | str | None = "auto",
    memory: int | None = None,
) -> Study:
    """A study of a fitted LinearRegression, Ridge or LogisticRegression, or of a Pipeline that ends in one.

    Args:
        fitted: the fitted estimator.
        X, y: what it was fitted on, transformed by nothing; sparse X is read a batch at a time.
        sample_weight: as given to fit.
        ids: a name for every training point; the pandas index or the position by default.
        protocol, solver, damping, memory: as for ``uw.Study``.

    Returns:
        A Study of the objective the estimator minimised, on the scale Σwᵢ = 1; queries and labels are in
        the user's terms. Refitting keeps the total penalty (C, alpha): protocol 'fixed_total'.

    Raises:
        ModelError: the estimator is unfitted or not supported.
        InputError: X has other columns than the fit, or y an unknown class.
        MissingExtraError: scikit-learn is not installed.
    """
    return Study.of(
        adapt_sklearn(fitted, (X, y), sample_weight, ids),
        Settings(protocol, solver=solver, damping=damping, memory=memory),
    )
