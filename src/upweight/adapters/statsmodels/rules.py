"""Which statsmodels model is read by which rule, and what is nearest to one that none reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from upweight.adapters.adapted import Adapted
from upweight.adapters.statsmodels import discrete, resistant
from upweight.adapters.statsmodels.codec import StatsmodelsCodec
from upweight.adapters.statsmodels.generalised import generalised_linear
from upweight.adapters.statsmodels.instruments import two_stage
from upweight.adapters.statsmodels.linear import least_squares
from upweight.adapters.statsmodels.penalised import ridge
from upweight.adapters.statsmodels.reading import Reading
from upweight.adapters.statsmodels.survival import proportional_hazards
from upweight.errors import ModelError, NonFiniteInput, SeparationWarning, warn
from upweight.objective import Examples, Objective, Quadratic, plain_forward, read_examples
from upweight.objective.data import index_array
from upweight.objective.predictors import Predictors
from upweight.space import ParameterSpace

RULES: dict[str, Callable[[Any], Reading]] = {
    "OLS": least_squares,
    "WLS": least_squares,
    "GLS": least_squares,
    "GLSAR": least_squares,
    "GLM": generalised_linear,
    "Logit": discrete.logit,
    "Probit": discrete.probit,
    "Poisson": discrete.poisson,
    "NegativeBinomial": discrete.negative_binomial,
    "MNLogit": discrete.multinomial_logit,
    "RLM": resistant.robust_linear,
    "QuantReg": resistant.quantile,
    "PHReg": proportional_hazards,
    "IV2SLS": two_stage,
}
"""Models by the name of their class, which must be this very one: a subclass may minimise something else."""

NEAREST = {
    "GEE": "GLM with cov_type='cluster'",
    "OrdinalGEE": "MNLogit",
    "NominalGEE": "MNLogit",
    "MixedLM": "OLS with cov_type='cluster'",
    "GLMGam": "GLM on the spline columns",
    "OrderedModel": "MNLogit",
    "GeneralizedPoisson": "NegativeBinomial",
    "NegativeBinomialP": "NegativeBinomial",
    "ZeroInflatedPoisson": "Poisson or NegativeBinomial",
    "ZeroInflatedGeneralizedPoisson": "Poisson or NegativeBinomial",
    "ZeroInflatedNegativeBinomialP": "NegativeBinomial",
    "TruncatedLFPoisson": "Poisson",
    "HurdleCountModel": "Poisson or NegativeBinomial",
    "ConditionalLogit": "Logit with a dummy for every group",
    "ConditionalPoisson": "Poisson with a dummy for every group",
    "ConditionalMNLogit": "MNLogit with a dummy for every group",
    "BetaModel": "GLM with family Binomial on the proportions",
    "IVGMM": "IV2SLS",
    "LinearIVGMM": "IV2SLS",
    "RecursiveLS": "OLS",
    "RollingOLS": "OLS on the window",
    "RollingWLS": "WLS on the window",
    "DynamicFactor": "OLS on the lags",
    "ARIMA": "OLS on the lags",
    "SARIMAX": "OLS on the lags",
    "AutoReg": "OLS on the lags",
    "VAR": "OLS, one equation at a time",
    "PCA": "OLS",
}
"""What stands nearest to models no rule reads."""


@dataclass(frozen=True)
class Additions:
    """What the user adds to the results.

    Attributes:
        penalty: alpha of fit_regularized.
        bandwidth: over which QuantReg's corner is smoothed.
        ids: names of the rows.
    """

    penalty: Any = None
    bandwidth: float | None = None
    ids: Any = None


def adapt_statsmodels(results: Any, added: Additions | None = None) -> Adapted:
    """Read fitted results as the objective they minimise, on the scale Σw = 1.

    Raises:
        ModelError: results of a model, or of a way to fit it, that is not supported; what is nearest is named.
    """
    added = added or Additions()
    model = getattr(results, "model", None)
    rule = RULES.get(type(model).__name__)
    if model is None or not hasattr(results, "params"):
        raise ModelError(
            f"found {type(results).__name__}. Expected the results of a statsmodels fit, as Model(...).fit() returns them."
        )
    if rule is None:
        raise ModelError(
            f"{type(model).__name__} is not supported. Expected one of {', '.join(RULES)}; the nearest is {_nearest(model)}."
        )
    if type(model).__name__ == "QuantReg":
        rule = partial(resistant.quantile, bandwidth=added.bandwidth)
    reading = rule(results)
    objective = _objective(reading, _examples(model, reading, added.ids))
    if type(getattr(results, "_results", results)).__name__ == "RegularizedResults":
        objective = ridge(objective, added.penalty, len(reading.weights) / float(reading.weights.sum()))
    elif separated(objective):
        warn(
            f"{type(model).__name__} fits every outcome: its classes are separated, the likelihood has no finite maximum, and the parameters, up to {float(objective.theta.abs().max()):.3g}, are where the optimiser stopped. Expected classes that overlap; leave out the variable that tells them apart, or fit with a penalty, as GLM(...).fit_regularized(L1_wt=0, alpha=...) does.",
            SeparationWarning,
        )
    has_offset = bool((objective.model.cells == -2).any())  # pyright: ignore
    codec = StatsmodelsCodec(model, reading, has_offset)
    return Adapted(objective, "fixed_mean", codec, reading.notes, inference=reading.inference)


def separated(objective: Objective) -> bool:
    """Whether the fitted predictor puts every outcome on its own side: then longer parameters fit ever better."""
    if objective.loss.kind not in ("class", "binary", "proportion"):
        return False
    outputs, targets = objective.loss.prepare(*_all(objective), objective.examples.ids)
    if objective.loss.kind == "class":
        own = outputs.gather(1, targets[:, None]).squeeze(1)
        others = outputs.scatter(1, targets[:, None], float("-inf"))
        return bool((own > others.max(1).values).all())
    hard = bool(((targets == 0) | (targets == 1)).all())
    return hard and bool(((2 * targets - 1).reshape(-1) * outputs[:, 0] > 0).all())


def _all(objective: Objective) -> tuple[Any, Any]:
    batch = objective.examples.read(slice(0, len(objective.examples)))
    return objective.forward(objective.model, batch)


def _nearest(model: Any) -> str:
    """By the name of its class, or of the first class it inherits from that is known."""
    for kind in type(model).__mro__:
        found = NEAREST.get(kind.__name__) or (kind.__name__ if kind.__name__ in RULES else None)
        if found:
            return found
    return "GLM"


def _objective(reading: Reading, examples: Examples) -> Objective:
    if not bool(torch.isfinite(reading.theta).all()):
        raise NonFiniteInput("the results hold coefficients that are NaN or infinite. Expected finite ones; fit again.")
    model = Predictors(reading.theta, reading.cells)
    space = ParameterSpace.of({"params": reading.theta}, reading.labels)
    weights = torch.as_tensor(reading.weights, dtype=torch.float64)
    trailing = () if model.out_features == 1 else (model.out_features,)
    return Objective(
        model,
        plain_forward,
        reading.loss.bound(trailing),
        examples,
        weights / weights.sum(),
        Quadratic(torch.zeros(space.size, dtype=torch.float64)),
        space,
        reading.theta,
        trailing,
        saddle=reading.saddle,
    )


def _examples(model: Any, reading: Reading, ids: Any) -> Examples:
    """The rows that were fitted, named as the user's frame names them; rows that were dropped keep no name."""
    labels = model.data.row_labels
    if ids is None and labels is not None:
        ids = index_array(labels)
    dropped = getattr(model.data, "missing_row_idx", None)
    if ids is None and dropped is not None and len(dropped):
        ids = np.setdiff1d(np.arange(len(reading.inputs) + len(dropped)), dropped)
    return read_examples((reading.inputs, reading.targets), torch.float64, ids, "training set")
