"""From the objective's scale to the user's: observations, degrees of freedom and dispersion at any weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.adapters import Inference
from upweight.errors import ConfigError
from upweight.fitted import Fitted

KINDS = ("classical", "ij", "hc0", "hc1", "hc2", "hc3", "cluster")


@dataclass(frozen=True)
class Scale:
    """What standard errors need of one fitted model, with the clusters and the kind that were asked for.

    Attributes:
        kind: one of ``KINDS``.
        clusters: the cluster of every point, counted from 0; empty unless the kind is 'cluster'.
    """

    inference: Inference
    kind: str
    clusters: np.ndarray
    base: Float[Tensor, "n"]
    """The weights at which every point counts once; points left out have none."""

    @property
    def unit(self) -> float:
        """The user's weight per unit of the objective's."""
        return self.inference.unit

    @cached_property
    def counts(self) -> Float[Tensor, "n"]:
        """How many observations a point stands for."""
        found = np.ones(len(self.base)) if self.inference.counts is None else self.inference.counts
        return torch.as_tensor(found, dtype=torch.float64)

    def observations(self, weights: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """n at other weights: a point whose weight is halved counts half."""
        present = self.base > 0
        return (self.counts[present] * weights[present] / self.base[present]).sum()

    @property
    def remaining(self) -> float:
        """n as it is."""
        return float(self.counts[self.base > 0].sum())

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the t distribution: n − p, or clusters − 1; infinite for the normal."""
        if not self.inference.student:
            return float("inf")
        if self.kind == "cluster":
            return float(len(np.unique(self.clusters[self.base.numpy() > 0])) - 1)
        return self.remaining - self.parameters

    @property
    def parameters(self) -> int:
        """p."""
        assert self.inference.parameters is not None
        return self.inference.parameters


def scale_of(fitted: Fitted, kind: str | None, groups: object = None) -> Scale:
    """What standard errors of this kind need.

    Raises:
        ConfigError: an unknown kind, one this model has no meaning for, or clusters that do not fit.
    """
    inference = fitted.adapted.inference or _of_loss(fitted)
    inference = replace(inference, parameters=inference.parameters or fitted.objective.space.size)
    wanted = _kind(kind, inference, groups)
    if wanted == "classical" and inference.dispersion is None:
        raise ConfigError(
            f"kind='classical' has no meaning for loss {fitted.objective.loss.name!r}, which is no likelihood with a dispersion. Expected 'ij', 'hc0' to 'hc3' or 'cluster'."
        )
    if wanted == "hc2" and fitted.objective.outputs > 1:
        raise ConfigError(
            f"kind='hc2' found {fitted.objective.outputs} outputs an example, whose leverage is a matrix without a square root of its own. Expected 'hc3', which takes its inverse, or 'hc1'."
        )
    if inference.unknown:
        raise ConfigError(inference.unknown)
    labels = inference.groups if groups is None else np.asarray(groups)
    if wanted != "cluster":
        return _with_freedom(Scale(inference, wanted, np.zeros(0, dtype=int), fitted.weights.cpu()))
    if labels is None or labels.shape != (fitted.objective.count,):
        found = "none" if labels is None else f"labels of shape {labels.shape}"
        raise ConfigError(
            f"kind='cluster' found {found}. Expected groups=, one label for each of {fitted.objective.count} training points."
        )
    clusters = np.unique(labels, return_inverse=True)[1]
    if clusters.max() < 1:
        raise ConfigError("kind='cluster' found one cluster only. Expected at least two.")
    return _with_freedom(Scale(inference, wanted, clusters, fitted.weights.cpu()))


def _with_freedom(scale: Scale) -> Scale:
    """The scale, unless as many parameters were estimated as there are observations and the errors divide by what is left."""
    counted = scale.kind in ("hc1", "hc2", "hc3") or (scale.kind == "cluster" and scale.inference.correction)
    counted = counted or (scale.kind == "classical" and scale.inference.dispersion == "estimated")
    if counted and scale.remaining <= scale.parameters:
        raise ConfigError(
            f"kind={scale.kind!r} found {scale.parameters} parameters estimated from {scale.remaining:g} observations: no degree of freedom is left. Expected more observations than parameters; drop parameters, or take kind='hc0' knowing that its residuals are zero."
        )
    return scale


def _kind(kind: str | None, inference: Inference, groups: object) -> str:
    """The kind asked for, or that of the fit; labels of clusters alone mean clusters."""
    if kind is None and groups is not None:
        return "cluster"
    wanted = inference.kind if kind is None else kind.lower()
    if wanted in KINDS:
        if groups is not None and wanted != "cluster":
            raise ConfigError(
                f"kind={kind!r} found groups=. Expected none with it; use kind='cluster', or leave them out."
            )
        return wanted
    if kind is None:
        raise ConfigError(f"{wanted}. Expected kind= to say which standard errors to use: one of {', '.join(KINDS)}.")
    raise ConfigError(f"kind={kind!r} is unknown. Expected one of {', '.join(KINDS)}.")


def _of_loss(fitted: Fitted) -> Inference:
    """A mean loss of n examples: a likelihood has dispersion 1, a squared error estimates it."""
    objective = fitted.objective
    loss, unit = objective.loss, objective.count / objective.total_weight
    if loss.mean(torch.zeros(1, objective.outputs, dtype=torch.float64)) is None:
        return Inference(unit, dispersion=None, kind="hc0")
    estimated = loss.kind == "real" and objective.outputs == 1
    return Inference(unit, dispersion="estimated" if estimated else "one", student=estimated)
