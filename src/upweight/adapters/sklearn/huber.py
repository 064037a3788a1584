"""HuberRegressor: coefficients and scale together, at the minimum of one convex objective."""

from __future__ import annotations

import torch

from upweight.adapters.sklearn.active import with_ones
from upweight.adapters.sklearn.recipe import Given, Recipe, coefficients
from upweight.objective.joint import HuberWithScale
from upweight.objective.predictors import Predictors
from upweight.space import ABSENT


def huber(given: Given) -> Recipe:
    """Σ [σ + σH((y − η)/σ)] + alpha‖coef‖², σ estimated beside the coefficients."""
    weight, bias = coefficients(given.final)
    slopes = weight[0] if bias is None else torch.cat([weight[0], bias])
    theta = torch.cat([slopes, torch.tensor([float(given.final.scale_)], dtype=torch.float64)])
    cells = torch.full((2, weight.shape[1] + 1), ABSENT)  # inputs and a one: the intercept's and the scale's
    cells[0, : len(slopes)] = torch.arange(len(slopes))
    cells[1, -1] = len(slopes)
    on = torch.zeros_like(theta)
    on[: weight.shape[1]] = 1.0
    names = given.names or tuple(f"coef[{place}]" for place in range(weight.shape[1]))
    return Recipe(
        Predictors(theta, cells),
        HuberWithScale(float(given.final.epsilon)),
        2 * float(given.final.alpha) * on,
        on,
        "fixed_total",
        "real",
        features=with_ones,
        labels=(*names, *(["intercept"] if bias is not None else []), "scale"),
    )
