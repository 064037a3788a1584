"""Lasso and elastic net: the objective on the coefficients that are not zero, where it is smooth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse

from upweight.adapters.sklearn.recipe import (
    Given,
    Recipe,
    coefficients,
    linear_map,
    linear_names,
    on_weights,
    output_names,
    refuse,
)
from upweight.objective import Loss, read_loss
from upweight.objective.predictors import Predictors
from upweight.space import ABSENT


def elastic_net(given: Given) -> Recipe:
    """½ mean (y − η)² + alpha·l1_ratio·‖coef‖₁ + ½alpha(1 − l1_ratio)‖coef‖²."""
    final, settings = given.final, given.final.get_params()
    if settings.get("positive"):
        raise refuse(f"{given.kind}(positive=True)", "positive=False")
    alpha = float(getattr(final, "alpha_", settings.get("alpha", 0.0)))
    lasso = given.kind.startswith("Lasso")
    ratio = 1.0 if lasso else float(np.ravel(getattr(final, "l1_ratio_", settings["l1_ratio"]))[0])
    return penalised_on_active(given, read_loss("squared_error"), alpha, ratio, "real", ())


def penalised_on_active(
    given: Given, loss: Loss, alpha: float, ratio: float, outcome: str, notes: tuple[str, ...]
) -> Recipe:
    """A linear map under alpha(ratio·‖·‖₁ + ½(1 − ratio)‖·‖²) beside the mean; zeros stay zero under an l1 part."""
    if ratio * alpha == 0:
        return _quadratic(given, loss, alpha, outcome, notes)
    weight, bias = coefficients(given.final)
    active = weight != 0
    chosen = weight[active]
    cells = torch.full((len(weight), weight.shape[1] + (bias is not None)), ABSENT)
    cells[:, : weight.shape[1]][active] = torch.arange(len(chosen))
    if bias is not None:
        cells[:, -1] = torch.arange(len(chosen), len(chosen) + len(bias))
    theta = chosen if bias is None else torch.cat([chosen, bias])
    on = torch.zeros_like(theta)
    on[: len(chosen)] = 1.0
    slope = alpha * ratio * theta.sign() * on
    held = int((~active).sum())
    said = f"{held} of {weight.numel()} coefficients are zero and stay zero; others may enter on a refit"
    return Recipe(
        Predictors(theta, cells),
        loss,
        alpha * (1 - ratio) * on,
        on,
        "fixed_mean",
        outcome,
        slope=slope,
        features=with_ones if bias is not None else None,
        labels=_names(given, active, bias is not None),
        notes=(*notes, said) if held else notes,
    )


def _quadratic(given: Given, loss: Loss, alpha: float, outcome: str, notes: tuple[str, ...]) -> Recipe:
    """The same without an l1 part: nothing is zero but by chance."""
    model = linear_map(given.final)
    unit = on_weights(model, 1.0)
    return Recipe(
        model, loss, alpha * unit, unit, "fixed_mean", outcome, labels=linear_names(given, model), notes=notes
    )


def with_ones(inputs: Any) -> Any:
    """Inputs with a last column of ones, for the intercept; what is sparse stays sparse."""
    if sparse.issparse(inputs):
        return sparse.hstack([inputs, np.ones((inputs.shape[0], 1))], format="csr")
    return np.column_stack([np.asarray(inputs, dtype=float), np.ones(len(inputs))])


def _names(given: Given, active: torch.Tensor, intercept: bool) -> tuple[str, ...]:
    columns = given.names or tuple(f"coef[{place}]" for place in range(active.shape[1]))
    parts = output_names(given, len(active))
    found = [f"{columns[j]}{parts[o]}" for o, j in active.nonzero().tolist()]
    return tuple(found + ([f"intercept{part}" for part in parts] if intercept else []))
