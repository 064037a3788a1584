"""Ridge fits, fit_regularized(L1_wt=0): the penalty, which the results do not keep, is given or read off the gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, ModelError
from upweight.gradients import engine_for
from upweight.objective import Objective, Quadratic

FOUND = 1e-3
"""How much of the gradient a single alpha may leave unexplained before it is called something else."""


def ridge(objective: Objective, alpha: Any, scale: float) -> Objective:
    """The objective with its penalty (alpha/2)‖θ‖², alpha as given to fit_regularized or as ∇ℓ = −alpha·θ says.

    Args:
        objective: the same without its penalty.
        alpha: a number, one a coefficient, or None to read it off.
        scale: the objective's unit in that of statsmodels, rows over Σω.

    Raises:
        ModelError: coefficients that are exactly zero, which an l1 penalty leaves.
        ConfigError: no single alpha explains the gradient.
    """
    theta = objective.theta
    if bool((theta == 0).any()):
        raise ModelError(
            "fit_regularized() with an l1 penalty is not supported. Expected L1_wt=0; the nearest that is are scikit-learn's Lasso and ElasticNet, by uw.from_sklearn."
        )
    found = _read_off(objective) if alpha is None else torch.as_tensor(alpha, dtype=torch.float64) * scale
    fits = found.ndim == 0 or found.shape == theta.shape
    if not fits or not bool((found >= 0).all()):
        raise ConfigError(
            f"penalty={alpha!r}. Expected the alpha that was given to fit_regularized: a number of zero or more, or one for each of {len(theta)} coefficients."
        )
    return replace(objective, penalty=Quadratic(found * torch.ones_like(theta)))


def _read_off(objective: Objective) -> Float[Tensor, ""]:
    """alpha of ∇ Σwℓ(θ̂) = −alpha·θ̂."""
    theta = objective.theta
    gradient = engine_for(objective).gradient(objective.weights)
    alpha = -(gradient @ theta) / (theta @ theta)
    left = (gradient + alpha * theta).norm() / gradient.norm().clamp_min(torch.finfo(theta.dtype).tiny)
    if float(left) > FOUND or float(alpha) < 0:
        raise ConfigError(
            f"the penalty of fit_regularized() could not be read off its results: a single alpha leaves {float(left):.1%} of the gradient. Expected penalty=alpha, as it was given to fit_regularized, with L1_wt=0."
        )
    return alpha
