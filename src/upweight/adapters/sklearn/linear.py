"""Least squares, ridge and logistic regression, and generalised linear models."""

from __future__ import annotations

from typing import Any

import numpy as np

from upweight.adapters.sklearn.recipe import Given, Recipe, linear_map, linear_names, on_weights, refuse
from upweight.errors import ModelError
from upweight.objective import Loss, read_loss
from upweight.objective.families import exponential_family
from upweight.objective.linear_map import LinearMap


def least_squares(given: Given) -> Recipe:
    """½(y − η)² summed over outputs, and (alpha/2)‖coef‖² beside the sum for ridge."""
    _require_free(given.final)
    strength = getattr(given.final, "alpha_", None)
    strength = given.final.get_params().get("alpha", 0.0) if strength is None else strength
    return _quadratic(given, read_loss("squared_error"), strength, "fixed_total", "real")


def ridge_classifier(given: Given) -> Recipe:
    """½(s − η)² with s = ±1, one output a class for more than two."""
    _require_free(given.final)
    strength = getattr(given.final, "alpha_", given.final.get_params().get("alpha", 0.0))
    return _quadratic(given, read_loss("squared_error"), strength, "fixed_total", "sign")


def logistic(given: Given) -> Recipe:
    """Cross-entropy, and (1/2C)‖coef‖² beside the sum; liblinear's also on the scaled intercept."""
    final, settings = given.final, given.final.get_params()
    ratio, penalty = settings.get("l1_ratio"), settings.get("penalty", "deprecated")
    if penalty in ("l1", "elasticnet") or (ratio not in (None, 0, 0.0) and penalty in (None, "deprecated")):
        raise ModelError(
            f"LogisticRegression with an l1 penalty (penalty={penalty!r}, l1_ratio={ratio!r}) is not supported: its objective has no Hessian. Expected l2 or no penalty."
        )
    model = linear_map(final)
    strength = 0.0 if penalty is None else 1 / float(np.ravel(getattr(final, "C_", settings.get("C", 1.0)))[0])
    on_bias = 0.0
    if settings.get("solver") == "liblinear" and model.bias is not None:
        on_bias = 1 / float(settings["intercept_scaling"]) ** 2
    binary = model.out_features == 1
    return _with_penalty(
        given,
        model,
        read_loss("binary_cross_entropy" if binary else "cross_entropy"),
        strength,
        on_bias,
        "fixed_total",
        "binary" if binary else "class",
    )


GENERALISED = {"PoissonRegressor": ("poisson", 1.0), "GammaRegressor": ("gamma", 2.0)}


def generalised(given: Given) -> Recipe:
    """Half the deviance of a family, and (alpha/2)‖coef‖² beside the mean."""
    family, power = GENERALISED.get(given.kind, ("tweedie", None))
    settings = given.final.get_params()
    power = float(settings["power"]) if power is None else power
    link = settings.get("link", "log")
    if link == "auto":
        link = "identity" if power <= 0 else "log"
    loss = exponential_family(family, link, shape=power)
    return _quadratic(given, loss, settings["alpha"], "fixed_mean", "real")


def _quadratic(given: Given, loss: Loss, strength: Any, protocol: str, outcome: str) -> Recipe:
    return _with_penalty(given, linear_map(given.final), loss, strength, 0.0, protocol, outcome)


def _with_penalty(
    given: Given, model: LinearMap, loss: Loss, strength: Any, on_bias: float, protocol: str, outcome: str
) -> Recipe:
    """A linear map under a quadratic penalty; ``on_bias`` in units of the coefficients'."""
    unit = on_weights(model, 1.0, on_bias)
    return Recipe(
        model,
        loss,
        unit * on_weights(model, strength, float(np.ravel(strength)[0])),
        unit,
        protocol,
        outcome,
        labels=linear_names(given, model),
    )


def _require_free(final: Any) -> None:
    if final.get_params().get("positive"):
        raise refuse(f"{type(final).__name__}(positive=True), whose minimiser may lie on a boundary,", "positive=False")
