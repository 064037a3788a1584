"""What a rule reads off fitted results, and how that becomes an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Int, Tensor
from upweight.adapters.adapted import Inference
from upweight.errors import ModelError
from upweight.objective import Loss
from upweight.objective.predictors import columns


@dataclass(frozen=True)
class Reading:
    """A fitted model in the terms of an objective Σ ωᵢ ℓ(W(θ)aᵢ, yᵢ) + r(θ).

    Attributes:
        theta, labels: θ̂ and what its coordinates are called.
        cells: where θ lies in W, as ``Predictors`` takes it.
        inputs: a (n, i) of the training set.
        targets: y of the training set, as the loss takes it.
        weights: ω (n,), on the user's scale.
        inference: what standard errors need.
        arrange: (exog (m, k), offset (m,)) ↦ a (m, i), for new data.
        encode: new outcomes ↦ targets.
        classes: what the user calls the classes, None where outcomes are numbers.
        saddle: θ̂ is no minimum.
        notes: what every answer must say.
    """

    loss: Loss
    theta: Float[Tensor, "p"]
    labels: tuple[str, ...]
    cells: Int[Tensor, "o i"]
    inputs: np.ndarray
    targets: Tensor
    weights: np.ndarray
    inference: Inference
    arrange: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    encode: Callable[[np.ndarray], Tensor]
    classes: tuple[Any, ...] | None = None
    saddle: bool = False
    notes: tuple[str, ...] = ()


def values(thing: Any) -> np.ndarray:
    """A vector or matrix of results as floats, whatever it is labelled with."""
    return np.asarray(thing, dtype=float)


def parameters(results: Any) -> Float[Tensor, "p"]:
    """θ̂ of one predictor, float64."""
    return torch.as_tensor(values(results.params).copy())


def names(results: Any) -> tuple[str, ...]:
    """What the design's columns are called."""
    model = results.model
    found = getattr(model, "exog_names", None) or model.data.xnames
    return tuple(str(name) for name in found)


def numbers(outcomes: np.ndarray) -> Tensor:
    """Outcomes that are numbers, (n,)."""
    return torch.as_tensor(np.array(outcomes, dtype=float).reshape(len(outcomes)))


def one_predictor(exog: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    """The inputs of a single predictor: the design, and the offset as a last column where the model has one."""
    return exog if offset is None else np.column_stack([exog, offset])


def predictor_cells(width: int, offset: bool) -> Int[Tensor, "o i"]:
    """The cells of a single predictor."""
    return columns(width, None) if offset else columns(width)


def asked_covariance(results: Any, generalised: bool = False) -> dict[str, Any]:
    """The covariance the results were fitted with, as arguments of ``Inference``.

    A generalised linear model's HC1 to HC3 are what statsmodels computes for them, which is HC0.
    """
    kind = str(getattr(results, "cov_type", "nonrobust"))
    keywords = getattr(results, "cov_kwds", None) or {}
    student = {"student": bool(getattr(results, "use_t", False))}
    if kind == "nonrobust":
        return student
    if kind.upper() in ("HC0", "HC1", "HC2", "HC3"):
        return {"kind": "hc0" if generalised else kind.lower(), **student}
    groups = keywords.get("groups")
    if kind == "cluster" and groups is not None and np.ndim(groups) == 1:
        correction = bool(keywords.get("use_correction", True))
        return {"kind": "cluster", "groups": np.asarray(groups), "correction": correction, **student}
    return {"kind": f"the results were fitted with cov_type={kind!r}, which is not known here", **student}


def refuse(what: str, nearest: str) -> ModelError:
    """The error of something that is not supported, naming what is nearest to it."""
    return ModelError(f"{what} is not supported. Expected {nearest}, which is the nearest that is.")
