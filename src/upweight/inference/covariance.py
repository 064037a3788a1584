"""The covariance of the parameters: H⁻¹ M H⁻¹, M by the kind that is asked for.

kind        M, on the scale of Σ ωᵢℓᵢ (ω the user's weights)                       also known as
classical   s²Σ ωᵢ E∇²ℓᵢ (∇²ℓᵢ where the fit's own errors are observed), s² = Σ ωᵢ(yᵢ − μᵢ)²/V(μᵢ)/(n − p), or 1                  model-based, nonrobust
hc0         Σ ωᵢ² gᵢgᵢᵀ                                                            White, robust, sandwich [W80]
hc1         hc0 · n/(n − p)                                                        Stata's robust
hc2, hc3    Σ ωᵢ² gᵢgᵢᵀ/(1 − hᵢ), and /(1 − hᵢ)²                                   [MW85]
            (of several outputs gᵢ = Jᵢᵀ(I − ωᵢΛᵢAᵢ)⁻¹∇_ηℓᵢ, as for a drop; hc3 only)
cluster     Σ_c (Σ_c ωᵢgᵢ)(Σ_c ωᵢgᵢ)ᵀ · C/(C − 1) · (n − 1)/(n − p)                [LZ86]
ij          Σ ωᵢ² g̃ᵢg̃ᵢᵀ, g̃ᵢ = gᵢ + its share of ∇r                                  infinitesimal jackknife [J72]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from upweight._typing import Bool, Float, Tensor
from upweight.errors import ApproximationWarning, IndefiniteCurvature, warn
from upweight.fitted import Fitted
from upweight.gradients import LinearEngine
from upweight.inference.scale import Scale, scale_of
from upweight.influence.changes import corrected
from upweight.linop import Dense
from upweight.questions.points import leverage
from upweight.questions.terms import terms
from upweight.solve import inverse as inverted

if TYPE_CHECKING:
    import pandas as pd


def covariance(fitted: Fitted, kind: str | None, groups: Any = None) -> pd.DataFrame:
    """The covariance matrix with the parameters' names, and its kind in ``attrs``."""
    import pandas as pd

    fitted.stationarity.warn()
    scale = scale_of(fitted, kind, groups)
    shown = scale.inference.shown or slice(None)
    names = fitted.objective.space.coordinates()[shown]
    matrix = covariance_matrix(fitted, scale)[shown, shown].cpu().numpy()
    found = pd.DataFrame(matrix, index=names, columns=names)
    found.attrs = {"kind": scale.kind, "notes": list(fitted.adapted.notes)}
    return found


def standard_errors(fitted: Fitted, kind: str | None, groups: Any = None) -> pd.Series:
    """The square roots of its diagonal, named."""
    import pandas as pd

    matrix = covariance(fitted, kind, groups)
    found = pd.Series(np.sqrt(np.diag(matrix)), index=matrix.index, name="standard error")
    found.attrs = matrix.attrs
    return found


def covariance_matrix(fitted: Fitted, scale: Scale) -> Float[Tensor, "p p"]:
    """H⁻¹ M H⁻¹ on the user's scale, float64."""
    if scale.kind == "classical":
        return _classical(fitted, scale)
    inverse = fitted.exact.inverse.dense().cpu()
    return inverse @ _meat(fitted, scale) @ inverse.T


def _classical(fitted: Fitted, scale: Scale) -> Float[Tensor, "p p"]:
    """s²/unit · H⁻¹ F H⁻¹, F = H less the penalty; H is the expected one where the fit's is."""
    penalty = torch.diag(fitted.objective.penalty.diagonal.to(fitted.weights))
    if scale.inference.expected and isinstance(fitted.engine, LinearEngine):
        information = fitted.engine.fisher(fitted.weights)
        whole = Dense(information + penalty, is_symmetric=not fitted.objective.saddle)
        inverse = inverted(whole, fitted.exact.gauge).dense()
    else:
        information, inverse = fitted.exact.curvature.dense() - penalty, fitted.exact.inverse.dense()
    sandwich = inverse @ information @ inverse.T if not fitted.objective.penalty.empty else inverse
    return dispersion(fitted, scale) / scale.unit * sandwich


def dispersion(fitted: Fitted, scale: Scale) -> float:
    """s²: 1, what was held, or Pearson's estimate."""
    asked = scale.inference.dispersion
    if not isinstance(asked, str):
        assert asked is not None
        return float(asked)
    if asked == "one":
        return 1.0
    total, loss = 0.0, fitted.objective.loss
    for where, batch in fitted.engine.batches():
        squares = loss.squared_residual(*fitted.engine.outputs(batch))
        assert squares is not None
        total += float(fitted.weights[where] @ squares.double())
    return scale.unit * total / (scale.remaining - scale.parameters)


def _meat(fitted: Fitted, scale: Scale) -> Float[Tensor, "p p"]:
    """M on the objective's scale, tile by tile."""
    p, weights = fitted.objective.space.size, fitted.weights
    if scale.kind == "hc3":
        return _jackknifed(fitted, scale)
    factors = _factors(fitted, scale)
    pull = fitted.penalty_gradient
    sums = torch.zeros(scale.clusters.max() + 1 if len(scale.clusters) else 0, p, dtype=torch.float64)
    total = torch.zeros(p, p, dtype=torch.float64)
    for where, batch in fitted.engine.batches():
        rows = fitted.engine.gradients(batch).dense().double() * weights[where, None]
        if scale.kind == "ij":
            rows = rows + fitted.shares(weights[where])[:, None] * pull
        rows = rows.cpu()
        if scale.kind == "cluster":
            sums.index_add_(0, torch.as_tensor(scale.clusters[where]), rows)
        else:
            total += (rows * factors[where, None]).T @ rows
    if scale.kind == "cluster":
        return cluster_factor(scale, scale.remaining) * sums.T @ sums
    return total


def _factors(fitted: Fitted, scale: Scale) -> Float[Tensor, "n"]:
    """What each gᵢgᵢᵀ is multiplied by; a point that stands for several observations is as many terms."""
    found = 1 / scale.counts
    if scale.kind == "hc1":
        return found * scale.remaining / (scale.remaining - scale.parameters)
    if scale.kind == "hc2":
        own = torch.as_tensor(leverage(fitted)) / scale.counts
        _say_full_leverage(fitted, own > FULL)
        return found / (1 - own)
    return found


def _jackknifed(fitted: Fitted, scale: Scale) -> Float[Tensor, "p p"]:
    """Σ of the outer products of what single drops push with, a point's copies one by one."""
    p, counts = fitted.objective.space.size, scale.counts
    total, full = torch.zeros(p, p, dtype=torch.float64), torch.zeros(len(counts), dtype=torch.bool)
    for where, changes in terms(fitted, fitted.objective.examples, -fitted.weights / counts.to(fitted.weights)):
        correction = corrected(changes, fitted.exact.inverse)
        full[where] = correction.refused.cpu()
        rows = changes.block(correction.push).dense().double().cpu()
        total += (rows * counts[where, None]).T @ rows
    _say_full_leverage(fitted, full)
    return total


def cluster_factor(scale: Scale, n: float | Float[Tensor, ""]) -> float | Float[Tensor, ""]:
    """C/(C − 1) · (n − 1)/(n − p), where that correction is made."""
    if not scale.inference.correction:
        return 1.0
    clusters = len(np.unique(scale.clusters[scale.base.numpy() > 0]))
    if clusters < 2:
        raise IndefiniteCurvature(
            "all points that are left lie in one cluster, which says nothing about how clusters differ. Expected two or more; leave fewer points out, or take kind='hc1'."
        )
    return clusters / (clusters - 1) * (n - 1) / (n - scale.parameters)


def _say_full_leverage(fitted: Fitted, full: Bool[Tensor, "n"]) -> None:
    if bool(full.any()):
        name = fitted.objective.examples.ids[int(full.int().argmax())]
        warn(
            f"{int(full.sum())} training points have leverage 1, the first is {name}: hc2 and hc3 divide by 1 − h there. Expected leverages below 1; use hc1, or remove what only these points determine.",
            ApproximationWarning,
        )


FULL = 1 - 1e-9
"""A leverage above which a point alone determines its own fit."""
