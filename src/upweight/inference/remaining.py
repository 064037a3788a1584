"""What is left of a fitted model when points are really left out: refitted, and ready to be asked again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.evaluate.refit import refit
from upweight.fitted import Fitted
from upweight.gradients import Engine, LinearEngine, NetworkEngine, VmapEngine, measure_stationarity
from upweight.objective import Objective


def without(fitted: Fitted, places: np.ndarray, start: Float[Tensor, "p"] | None = None) -> Fitted:
    """The same estimator refitted without these points; the rest keep their weights and their names.

    The penalty follows the protocol. The model itself is not touched: everything is asked at the new θ̂.

    Raises:
        NotConverged, IndefiniteCurvature: what remains does not determine the parameters.
    """
    objective = fitted.objective
    weights = fitted.weights.clone()
    weights[torch.as_tensor(places)] = 0.0
    removed = fitted.share(float((weights - fitted.weights).sum()))
    theta = refit(fitted, weights, start).to(objective.theta.dtype)
    remaining = replace(objective, weights=weights, theta=theta, penalty=objective.penalty.scaled(1.0 + removed))
    engine = at_objective(fitted.engine, remaining)
    adapted = replace(fitted.adapted, objective=remaining)
    return Fitted(adapted, fitted.settings, engine, measure_stationarity(engine))


def at_objective(engine: Engine, objective: Objective) -> Engine:
    """The same engine at other weights and parameters; what it holds of the examples is kept."""
    if isinstance(engine, VmapEngine):
        return replace(engine, objective=objective)
    assert isinstance(engine, LinearEngine | NetworkEngine)
    return replace(engine, general=replace(engine.general, objective=objective))
