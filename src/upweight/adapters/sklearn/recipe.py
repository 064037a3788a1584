"""What a rule reads off a fitted estimator: the model, the loss, the penalty, and how its outcomes are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from upweight._typing import Float, Tensor
from upweight.errors import ModelError, NonFiniteInput
from upweight.objective import Loss
from upweight.objective.linear_map import LinearMap

SMOOTHING = 0.03
"""Temperature over which corners of hinges are smoothed, in units of the margin: within the paper's 0.001 to 0.1."""


@dataclass(frozen=True)
class Recipe:
    """A fitted estimator in the terms of an objective Σ ωᵢℓᵢ(θ) + r(θ).

    Attributes:
        model: with θ̂ in it; its parameters are tracked.
        penalty: ∇²r, the diagonal (p,).
        reach: where a bare λ acts, and how strongly.
        slope: the linear part of r, an l1 penalty's on the coefficients that are not zero; None for none.
        protocol: 'fixed_total' if r stands beside Σωℓ, 'fixed_mean' if it stands beside the mean loss.
        outcome: how outcomes are written: 'real', 'binary' (0, 1), 'class' (0 to K − 1), 'sign' (−1, 1, one column a
            class for more than two), or 'labels' (0, 1 for each of several).
        features: from the estimator's inputs to the model's; None where they are the same.
        weigh: what the estimator multiplies every point's weight by; None for nothing.
        labels: names of the coordinates of θ, where the estimator knows names.
        notes: what every answer must say.
    """

    model: nn.Module
    loss: Loss
    penalty: Float[Tensor, "p"]
    reach: Float[Tensor, "p"]
    protocol: str
    outcome: str
    slope: Float[Tensor, "p"] | None = None
    features: Callable[[Any], Any] | None = None
    weigh: Float[Tensor, "n"] | None = None
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """A fitted final step, and what else a rule may need.

    Attributes:
        final: the estimator.
        names: what its columns are called, None if it does not know.
        smoothing: temperature of smoothed corners.
        count: how many points it was fitted on.
    """

    final: Any
    names: tuple[str, ...] | None
    smoothing: float
    count: int

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self.final).__name__

    @property
    def classes(self) -> np.ndarray | None:
        """What the user calls the classes, None for a regression."""
        return getattr(self.final, "classes_", None)


def linear_map(final: Any) -> LinearMap:
    """η = coef_ x + intercept_."""
    return LinearMap(*coefficients(final))


def coefficients(final: Any) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o"] | None]:
    """The fitted coefficients (o, i) and intercepts (o,), None without.

    Raises:
        NonFiniteInput: they are NaN or infinite.
    """
    found = final.coef_.toarray() if hasattr(final.coef_, "toarray") else final.coef_
    weight = torch.as_tensor(np.array(np.atleast_2d(found), dtype=float))
    bias = None
    if final.get_params().get("fit_intercept", True):
        bias = torch.as_tensor(np.array(np.atleast_1d(final.intercept_), dtype=float)).expand(len(weight)).clone()
    for part in (weight, bias):
        if part is not None and not bool(torch.isfinite(part).all()):
            raise NonFiniteInput(
                f"the fitted {type(final).__name__} has coefficients that are NaN or infinite. Expected finite ones; fit it again."
            )
    return weight, bias


def on_weights(model: LinearMap, strength: float | np.ndarray, on_bias: float = 0.0) -> Float[Tensor, "p"]:
    """A diagonal with one strength, or one an output, on coefficients, and another on intercepts."""
    wide = torch.as_tensor(np.broadcast_to(np.asarray(strength, dtype=float), (model.out_features,)).copy())
    parts = [wide.repeat_interleave(model.in_features)]
    if model.bias is not None:
        parts.append(torch.full((model.out_features,), float(on_bias), dtype=torch.float64))
    return torch.cat(parts)


def linear_names(given: Given, model: LinearMap) -> tuple[str, ...]:
    """Names of coefficients and intercepts, with the class or output where there are several; empty without names."""
    if given.names is None or len(given.names) != model.in_features:
        return ()
    parts = output_names(given, model.out_features)
    found = [f"{name}{part}" for part in parts for name in given.names]
    return tuple(found + ([f"intercept{part}" for part in parts] if model.bias is not None else []))


def output_names(given: Given, outputs: int) -> Sequence[str]:
    """What is added to a name to say of which output it is."""
    if outputs == 1:
        return [""]
    classes = given.classes
    named = classes.tolist() if classes is not None and len(classes) == outputs else range(outputs)
    return [f"[{name}]" for name in named]


def refuse(what: str, nearest: str) -> ModelError:
    """The error of something that is not supported, naming what is nearest to it."""
    return ModelError(f"{what} is not supported. Expected {nearest}, which is the nearest that is.")
