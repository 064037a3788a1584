"""Discrete choices and counts: Logit, Probit, MNLogit, Poisson, NegativeBinomial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.adapters.adapted import Inference
from upweight.adapters.statsmodels.reading import (
    Reading,
    asked_covariance,
    names,
    numbers,
    one_predictor,
    parameters,
    predictor_cells,
    refuse,
    values,
)
from upweight.errors import LabelError
from upweight.objective import Loss, read_loss
from upweight.objective.families import exponential_family
from upweight.objective.joint import NegativeBinomialLikelihood
from upweight.objective.predictors import columns
from upweight.space import ABSENT


def logit(results: Any) -> Reading:
    """log(1 + e^η) − yη."""
    return _single(results, read_loss("binary_cross_entropy"))


def probit(results: Any) -> Reading:
    """−y log Φ(η) − (1 − y) log Φ(−η)."""
    return _single(results, exponential_family("binomial", "probit"))


def poisson(results: Any) -> Reading:
    """e^η − yη."""
    return _single(results, read_loss("poisson"))


def negative_binomial(results: Any) -> Reading:
    """−log p(y; μ, α), α estimated beside β: two outputs, x′β and α."""
    form = results.model.loglike_method
    if form == "geometric":
        return _single(results, exponential_family("negative_binomial", "log", shape=1.0))
    reading = _single(results, NegativeBinomialLikelihood(1 if form == "nb1" else 0))
    width, has_offset = reading.inputs.shape[1], _offset(results.model) is not None
    slopes = width - has_offset
    cells = columns(slopes, None, 1) if has_offset else columns(slopes, 1)

    def arrange(exog: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
        return np.column_stack([one_predictor(exog, offset), np.ones(len(exog))])

    return replace(
        reading, cells=cells, inputs=np.column_stack([reading.inputs, np.ones(len(reading.inputs))]), arrange=arrange
    )


def multinomial_logit(results: Any) -> Reading:
    """log Σ exp η − η_y, the first class's η held at zero."""
    model = results.model
    coefficients = values(results.params)  # (k, classes − 1)
    width, others = coefficients.shape
    called = [str(model._ynames_map[place]) for place in range(others + 1)]
    cells = torch.full((others + 1, width), ABSENT)
    cells[1:] = torch.arange(others * width).reshape(others, width)
    classes = _classes(model, called)
    reading = _single(results, read_loss("cross_entropy"), torch.as_tensor(np.asarray(model.endog).astype(int).ravel()))
    return replace(
        reading,
        theta=torch.as_tensor(coefficients.T.reshape(-1).copy()),
        labels=tuple(f"{name}[{outcome}]" for outcome in called[1:] for name in names(results)),
        cells=cells,
        encode=_coded(classes),
        classes=classes,
    )


def _single(results: Any, loss: Loss, targets: Tensor | None = None) -> Reading:
    """One predictor x′β + offset, unit weights, likelihood."""
    if getattr(results, "constraints", None) is not None:
        raise refuse("fit_constrained()", "fit() of a design that holds the constraint, with the fixed part as offset")
    if type(getattr(results, "_results", results)).__name__.startswith("L1"):
        raise refuse("fit_regularized() with an l1 penalty", "fit(), or GLM(...).fit_regularized(L1_wt=0)")
    model = results.model
    exog, offset = values(model.exog), _offset(model)
    count = len(exog)
    return Reading(
        loss=loss,
        theta=parameters(results),
        labels=names(results),
        cells=predictor_cells(exog.shape[1], offset is not None),
        inputs=one_predictor(exog, offset),
        targets=numbers(values(model.endog)) if targets is None else targets,
        weights=np.ones(count),
        inference=Inference(float(count), **asked_covariance(results, generalised=True)),
        arrange=one_predictor,
        encode=numbers,
    )


def _offset(model: Any) -> np.ndarray | None:
    """Offset and log exposure together, None for neither."""
    parts = [values(getattr(model, name)) for name in ("offset", "exposure") if getattr(model, name, None) is not None]
    return sum(parts[1:], parts[0]) if parts else None


def _classes(model: Any, called: list[str]) -> tuple[Any, ...]:
    """The classes as the user wrote them: numbers where their names are numbers."""
    original = np.unique(np.asarray(model.data.orig_endog).ravel()) if model.data.orig_endog is not None else None
    if original is not None and len(original) == len(called):
        return tuple(original.tolist())
    return tuple(called)


def _coded(classes: tuple[Any, ...]) -> Callable[[np.ndarray], Tensor]:
    """Outcomes in the user's terms as places among the classes."""
    places = {str(label): place for place, label in enumerate(classes)}

    def encode(outcomes: np.ndarray) -> Tensor:
        found = [str(item) for item in np.asarray(outcomes).ravel().tolist()]
        unknown = [item for item in found if item not in places]
        if unknown:
            raise LabelError(
                f"found the outcome {unknown[0]}. Expected one of {', '.join(places)}, which the model was fitted on."
            )
        return torch.tensor([places[item] for item in found])

    return encode
