"""GLM: every family with every link, offsets and exposure, frequency and variance weights, binomial counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.adapters.adapted import Inference
from upweight.adapters.statsmodels.reading import (
    Reading,
    asked_covariance,
    names,
    one_predictor,
    parameters,
    predictor_cells,
    refuse,
    values,
)
from upweight.objective import Loss
from upweight.objective.families import exponential_family

FAMILIES = {
    "Gaussian": ("gaussian", None),
    "Binomial": ("binomial", None),
    "Poisson": ("poisson", None),
    "Gamma": ("gamma", None),
    "InverseGaussian": ("inverse_gaussian", None),
    "NegativeBinomial": ("negative_binomial", "alpha"),
    "Tweedie": ("tweedie", "var_power"),
}
"""statsmodels' names of families, ours, and the attribute that holds their parameter."""

LINKS = {
    "Logit": ("logit", None),
    "Probit": ("probit", None),
    "Cauchy": ("cauchy", None),
    "CLogLog": ("cloglog", None),
    "LogLog": ("loglog", None),
    "LogC": ("logc", None),
    "Log": ("log", None),
    "Identity": ("identity", None),
    "Power": ("power", "power"),
    "InversePower": ("power", "power"),
    "InverseSquared": ("power", "power"),
    "Sqrt": ("power", "power"),
    "NegativeBinomial": ("negative_binomial", "alpha"),
}
DISTRIBUTIONS = {"norm": "probit", "cauchy": "cauchy", "logistic": "logit"}
"""Distributions of scipy whose CDFLink has a name of its own."""

ONE = ("Binomial", "Poisson", "NegativeBinomial")
"""Families whose dispersion is 1 unless the fit estimates it."""


def generalised_linear(results: Any) -> Reading:
    """−log p(y; μ(η)) of a family and a link, weighted by frequencies, variances and numbers of trials."""
    model = results.model
    if getattr(results, "constraints", None) is not None:
        raise refuse("fit_constrained()", "fit() of a design that holds the constraint, with the fixed part as offset")
    exog, endog = values(model.exog), values(model.endog)
    offset = values(getattr(model, "_offset_exposure", 0.0)) * np.ones(len(endog))
    has_offset = bool(offset.any())
    frequency = values(model.freq_weights) * np.ones(len(endog))
    weights = frequency * values(model.var_weights) * values(model.n_trials)
    return Reading(
        loss=family_loss(model.family),
        theta=parameters(results),
        labels=names(results),
        cells=predictor_cells(exog.shape[1], has_offset),
        inputs=one_predictor(exog, offset if has_offset else None),
        targets=torch.as_tensor(endog.copy()),
        weights=weights,
        inference=Inference(
            float(weights.sum()),
            counts=None if bool((frequency == 1).all()) else frequency,
            dispersion=_dispersion(results),
            expected=True,
            **asked_covariance(results, generalised=True),
        ),
        arrange=one_predictor,
        encode=proportions,
    )


def family_loss(family: Any) -> Loss:
    """The loss of a statsmodels family with its link."""
    kind, link = type(family).__name__, family.link
    if kind not in FAMILIES:
        raise refuse(f"family {kind}", f"one of {', '.join(FAMILIES)}")
    name, shape = FAMILIES[kind]
    linked, power = _link(link)
    return exponential_family(
        name,
        linked,
        1.0 if shape is None else float(getattr(family, shape)),
        1.0 if power is None else float(getattr(link, power)),
    )


def _link(link: Any) -> tuple[str, str | None]:
    for kind in type(link).__mro__:  # deprecated aliases in small letters are subclasses
        if kind.__name__ == "CDFLink":
            name = getattr(link.dbn, "name", type(link.dbn).__name__)
            if name in DISTRIBUTIONS:
                return DISTRIBUTIONS[name], None
            raise refuse(f"link CDFLink({name})", "Probit, Cauchy or Logit")
        if kind.__name__ in LINKS:
            return LINKS[kind.__name__]
    raise refuse(f"link {type(link).__name__}", f"one of {', '.join(LINKS)}")


def proportions(outcomes: np.ndarray) -> Tensor:
    """Outcomes (n,); of two columns, successes and failures, the share of successes."""
    found = np.array(outcomes, dtype=float)
    if found.ndim == 2 and found.shape[1] == 2:
        found = found[:, 0] / found.sum(1)
    return torch.as_tensor(found.reshape(len(found)))


def _dispersion(results: Any) -> str | float:
    kind = getattr(results.model, "scaletype", None)
    if kind is None:
        return "one" if type(results.model.family).__name__ in ONE else "estimated"
    if isinstance(kind, str) and kind.lower() == "x2":
        return "estimated"
    return float(results.scale)
