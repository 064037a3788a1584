"""KernelRidge and Gaussian processes: ridge and logistic regression in the eigenvectors of the kernel.

    K = QΛQᵀ on the training points,   φ(x) = Λ^(−½)Qᵀk(x),   f(x) = θ′φ(x),   ‖f‖²_K = ‖θ‖²

A point that is left out leaves the loss; what its kernel column spans stays a direction that nothing needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from upweight.adapters.sklearn.recipe import Given, Recipe, refuse
from upweight.objective import read_loss
from upweight.objective.predictors import Predictors
from upweight.space import FIXED

NEGLIGIBLE = 1e-12
"""Eigenvalues of the kernel below this share of the largest are rounding."""

HELD = "The kernel's parameters are held fixed"


def kernel_ridge(given: Given) -> Recipe:
    """½(y − f)² and (alpha/2)‖f‖²_K beside the sum."""
    final = given.final
    phi, root = _features(lambda X: final._get_kernel(X, final.X_fit_), final.X_fit_)
    theta = torch.as_tensor(root.T @ np.asarray(final.dual_coef_, dtype=float).reshape(len(final.X_fit_), -1))
    strength = np.broadcast_to(np.asarray(final.alpha, dtype=float), (theta.shape[1],))
    return _in_eigenvectors(phi, theta, read_loss("squared_error"), strength, "real")


def gaussian_regression(given: Given) -> Recipe:
    """½(y − f)²/σᵢ² and ½‖f‖²_K: the posterior mean, noise σᵢ² from alpha and the white part of the kernel."""
    final = given.final
    X, kernel = final.X_train_, final.kernel_
    phi, root = _features(lambda Z: kernel(Z, X), X)
    noise = np.diag(kernel(X)) - np.diag(kernel(X, np.array(X))) + np.asarray(final.alpha, dtype=float)
    spread, middle = np.atleast_1d(final._y_train_std), np.atleast_1d(final._y_train_mean)
    if len(np.unique(spread)) > 1:
        raise refuse(
            "GaussianProcessRegressor(normalize_y=True) of several outcomes", "one outcome, or normalize_y=False"
        )
    theta = torch.as_tensor(root.T @ np.asarray(final.alpha_, dtype=float).reshape(len(X), -1) * spread)
    scale = float(spread[0]) ** 2
    return _in_eigenvectors(
        phi, theta, read_loss("squared_error"), np.full(theta.shape[1], 1 / scale), "real", middle, 1 / (scale * noise)
    )


def gaussian_classification(given: Given) -> Recipe:
    """log(1 + e^f) − yf and ½‖f‖²_K: the mode Laplace's approximation is taken at."""
    if len(given.final.classes_) > 2:
        raise refuse("GaussianProcessClassifier of more than two classes", "two classes, or LogisticRegression")
    final = given.final.base_estimator_
    X, kernel = final.X_train_, final.kernel_
    phi, root = _features(lambda Z: kernel(Z, X), X)
    theta = torch.as_tensor(root.T @ (final.y_train_ - final.pi_)[:, None])
    return _in_eigenvectors(phi, theta, read_loss("binary_cross_entropy"), np.ones(1), "binary")


def _features(kernel: Callable[[Any], np.ndarray], X: Any) -> tuple[Callable[[Any], np.ndarray], np.ndarray]:
    """φ, and the root R = QΛ^½ with K = RRᵀ and θ = Rᵀ·(dual coefficients)."""
    values, vectors = np.linalg.eigh(kernel(X))
    kept = values > NEGLIGIBLE * values[-1]
    root = vectors[:, kept] * np.sqrt(values[kept])
    down = vectors[:, kept] / np.sqrt(values[kept])
    return lambda Z: kernel(Z) @ down, root


def _in_eigenvectors(
    phi: Callable[[Any], np.ndarray],
    theta: torch.Tensor,
    loss: Any,
    strength: np.ndarray,
    outcome: str,
    middle: np.ndarray | None = None,
    weigh: np.ndarray | None = None,
) -> Recipe:
    """One predictor an outcome, none of them with an intercept; ``middle`` is added to what is predicted."""
    width, outputs = theta.shape
    cells = torch.arange(width * outputs).reshape(outputs, width)
    shift = None if middle is None or not middle.any() else np.broadcast_to(middle, (outputs,))
    if shift is not None:
        cells = torch.cat([cells, torch.full((outputs, 1), FIXED)], 1)
        if len(np.unique(shift)) > 1:
            raise refuse(
                "GaussianProcessRegressor(normalize_y=True) of several outcomes", "one outcome, or normalize_y=False"
            )

    def features(inputs: Any) -> np.ndarray:
        found = phi(inputs)
        return found if shift is None else np.column_stack([found, np.full(len(found), shift[0])])

    penalty = torch.as_tensor(np.repeat(strength, width).astype(float))
    names = [f"eigenvector {place}" for place in range(width)]
    return Recipe(
        Predictors(theta.T.reshape(-1), cells),
        loss,
        penalty,
        torch.ones_like(penalty),
        "fixed_total",
        outcome,
        features=features,
        weigh=None if weigh is None else torch.as_tensor(weigh * np.ones(1)),
        labels=tuple(f"{name}{f'[{o}]' if outputs > 1 else ''}" for o in range(outputs) for name in names),
        notes=(HELD,),
    )
