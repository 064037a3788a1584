"""Estimators that resist outliers: RLM at its scale, QuantReg smoothed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from upweight.adapters.adapted import CORNER, Inference
from upweight.adapters.statsmodels.linear import least_squares
from upweight.adapters.statsmodels.reading import Reading, refuse
from upweight.objective.robust import NORMS, RobustNorm, SmoothedQuantile

SCALE_HELD = "The robust scale is held fixed; refitting would estimate it again"


def robust_linear(results: Any, bandwidth: float | None = None) -> Reading:
    """s²ρ((y − x′β)/s), the scale s as it was estimated."""
    norm = results.model.M
    kind = type(norm).__name__
    if kind not in NORMS:
        raise refuse(f"norm {kind}", f"one of {', '.join(NORMS)}")
    constants = tuple(float(getattr(norm, name)) for name in NORMS[kind][1])
    loss = RobustNorm(kind, constants, float(results.scale))
    reading = least_squares(results)
    inference = Inference(reading.inference.unit, dispersion=None, kind="hc0")
    return replace(reading, loss=loss, inference=inference, notes=(SCALE_HELD,))


def quantile(results: Any, bandwidth: float | None = None) -> Reading:
    """The check function with its corner smoothed over a bandwidth, at the coefficients of the exact one."""
    width = float(bandwidth if bandwidth is not None else results.bandwidth * NARROWER)
    reading = least_squares(results)
    inference = Inference(reading.inference.unit, dispersion=None, kind="hc0", unknown=NO_ERRORS)
    note = f"{CORNER} check function is smoothed over {width:.3g} target units, for refits as well"
    return replace(reading, loss=SmoothedQuantile(float(results.q), width), inference=inference, notes=(note,))


NO_ERRORS = (
    "standard errors of QuantReg rest on the density of the residuals, which a corner smoothed this narrowly does not estimate. "
    "Expected another question, such as worst_case('sign'); take results.bse of statsmodels for the errors."
)

NARROWER = 0.1
"""Of the bandwidth statsmodels estimates the density with: wider, and smoothed coefficients leave the exact ones."""
