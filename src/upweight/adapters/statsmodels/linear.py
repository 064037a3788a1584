"""Least squares: OLS, WLS, GLS, GLSAR."""

from __future__ import annotations

from typing import Any

import numpy as np

from upweight.adapters.adapted import Inference
from upweight.adapters.statsmodels.reading import (
    Reading,
    asked_covariance,
    names,
    numbers,
    one_predictor,
    parameters,
    predictor_cells,
    values,
)
from upweight.objective import read_loss

WHITENED = "Rows are whitened: a row is what its observation adds to those before it; leave whole correlated groups out to leave observations out"


def least_squares(results: Any) -> Reading:
    """½(y − x′β)² with the weights of WLS; GLS whose errors are correlated in its whitened rows."""
    model, width = results.model, len(results.params)
    exog, endog, weights, notes = _rows(model)
    return Reading(
        loss=read_loss("squared_error"),
        theta=parameters(results),
        labels=names(results),
        cells=predictor_cells(width, False),
        inputs=exog,
        targets=numbers(endog),
        weights=weights,
        inference=Inference(float(weights.sum()), dispersion="estimated", **asked_covariance(results)),
        arrange=one_predictor,
        encode=numbers,
        notes=notes,
    )


def _rows(model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Design, outcomes, weights, and what must be said."""
    exog, endog = values(model.exog), values(model.endog)
    kind = type(model).__name__
    if kind == "WLS":
        return exog, endog, values(model.weights) * np.ones(len(endog)), ()
    root = getattr(model, "cholsigmainv", None)
    if kind == "GLS" and root is not None and np.ndim(root) == 1:
        return exog, endog, values(root) ** 2, ()
    if kind not in ("GLS", "GLSAR") or (kind == "GLS" and root is None):
        return exog, endog, np.ones(len(endog)), ()
    wexog, wendog = values(model.wexog), values(model.wendog)
    return wexog, wendog, np.ones(len(wendog)), (WHITENED,)
