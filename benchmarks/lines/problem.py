"""Least squares and logistic regression, n = 100,000, p = 50 and an intercept; 20 queries. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COUNT, COLUMNS, QUERIES = 100_000, 50, 20


@dataclass(frozen=True)
class Line:
    """Data and the fitted θ, intercept last."""

    X: np.ndarray
    y: np.ndarray
    Xt: np.ndarray
    yt: np.ndarray
    theta: np.ndarray


def load(kind: str, count: int = COUNT) -> Line:
    """A seeded problem, fitted to rounding."""
    rng = np.random.default_rng(0)
    X, Xt = rng.standard_normal((count, COLUMNS)), rng.standard_normal((QUERIES, COLUMNS))
    beta = rng.standard_normal(COLUMNS) / 7
    A = np.column_stack([X, np.ones(count)])
    if kind == "ols":
        y = X @ beta + rng.standard_normal(count)
        return Line(X, y, Xt, Xt @ beta, np.linalg.lstsq(A, y, rcond=None)[0])
    y = (rng.random(count) < 1 / (1 + np.exp(-X @ beta))).astype(float)
    theta = np.zeros(COLUMNS + 1)
    for _ in range(12):
        p = 1 / (1 + np.exp(-A @ theta))
        theta -= np.linalg.solve(A.T @ ((p * (1 - p))[:, None] * A), A.T @ (p - y))
    return Line(X, y, Xt, (Xt @ beta > 0).astype(float), theta)
