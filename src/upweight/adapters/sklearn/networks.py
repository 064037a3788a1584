"""MLPClassifier and MLPRegressor as plain torch networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from upweight.adapters.sklearn.recipe import Given, Recipe
from upweight.objective import read_loss
from upweight.objective.linear_map import LinearMap

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}
LOSSES = {
    "softmax": ("cross_entropy", "class"),
    "logistic": ("binary_cross_entropy", "binary"),
    "identity": ("squared_error", "real"),
    "exp": ("poisson", "real"),
}
"""What the output activation says of the loss, and of how outcomes are written."""


def perceptron(given: Given) -> Recipe:
    """Loss of the outputs before their activation, and alpha/2 ‖coefs‖²: beside the sum of a batch, as it descends."""
    final = given.final
    layers: list[nn.Module] = []
    for coefs, intercepts in zip(final.coefs_[:-1], final.intercepts_[:-1], strict=True):
        layers += [_hidden(_last(coefs, intercepts)), ACTIVATIONS[final.activation]()]
    model = nn.Sequential(*layers, _last(final.coefs_[-1], final.intercepts_[-1])).eval()
    name, outcome = LOSSES[final.out_activation_]
    if outcome == "binary" and final.n_outputs_ > 1:
        outcome = "labels"
    on = torch.cat([torch.full((p.numel(),), float(p.ndim == 2), dtype=torch.float64) for p in model.parameters()])
    whole = final.solver == "lbfgs"
    strength = float(final.alpha) if whole else float(final.alpha) / _batch(final, given.count)
    early = ("Early stopping held a part of the points back; all are read as training points",)
    return Recipe(
        model,
        read_loss(name),
        strength * on,
        on,
        "fixed_total" if whole else "fixed_mean",
        outcome,
        notes=early if final.early_stopping and not whole else (),
    )


def _hidden(layer: LinearMap) -> nn.Linear:
    """The same map as a plain layer, whose single output keeps its axis."""
    found = nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64, device="meta")
    found.weight, found.bias = layer.weight, nn.Parameter(layer.bias)  # pyright: ignore[reportArgumentType]
    return found


def _last(coefs: np.ndarray, intercepts: np.ndarray) -> LinearMap:
    weight = torch.as_tensor(np.ascontiguousarray(np.asarray(coefs, dtype=float).T))
    return LinearMap(weight, torch.as_tensor(np.asarray(intercepts, dtype=float)))


def _batch(final: Any, count: int) -> int:
    """Points of a batch, each of which is given the whole penalty divided by its size."""
    return min(200, count) if final.batch_size == "auto" else int(np.clip(final.batch_size, 1, count))
