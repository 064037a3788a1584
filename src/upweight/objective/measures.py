"""Measurements φ of a query: what the effect is an effect on.

A measure maps the outputs and targets of m queries to (m, c) numbers; c is 1 except for the raw
prediction of a model with several outputs. A set measure maps them all to one number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, ShapeError
from upweight.objective.loss import Loss

PER_EXAMPLE = ("loss", "logit", "margin", "probability", "prediction", "mean")
OVER_SET = ("accuracy", "auc")


@dataclass(frozen=True)
class Measure:
    """φ, a number (or c numbers) for every query.

    Attributes:
        free: a callable of the user's, of which nothing is known; zero slopes of it may be a mistake.
    """

    name: str
    unit: str
    function: Callable[[Float[Tensor, "b o"], Tensor], Float[Tensor, "b c"]]
    free: bool = False

    def values(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b c"]:
        """φ at given outputs."""
        return self.function(outputs, targets)

    def gradient(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b c o"]:
        """∂φ/∂η; examples are independent, so one backward pass a component."""
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            found = self.function(outputs, targets) + 0 * outputs[:, :1]  # (b, c); a callable may leave outputs out
            slopes = [torch.autograd.grad(column.sum(), outputs, retain_graph=True)[0] for column in found.unbind(1)]
        return torch.stack(slopes, 1)


class SetMeasure(ABC):
    """One number for a whole set of queries, such as accuracy."""

    name: str
    unit: str

    @abstractmethod
    def values(self, outputs: Float[Tensor, "m o k"], targets: Tensor) -> Float[Tensor, "k"]:
        """The measure at k versions of the outputs."""


@dataclass(frozen=True)
class Accuracy(SetMeasure):
    """The share of queries whose predicted class is their target."""

    loss: Loss
    name = "accuracy"
    unit = "share of queries"

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.loss.kind == "class":
            return (self.loss.predicted(outputs) == targets.unsqueeze(1)).to(outputs.dtype).mean(0)
        if self.loss.kind == "proportion":
            outputs = _of_each_version(self.loss, outputs) - 0.5
        right = (outputs > 0) == (
            targets.reshape(len(targets), -1, 1) > 0.5 * (self.loss.kind in ("binary", "proportion"))
        )
        return right.to(outputs.dtype).mean((0, 1))  # of several labels, the share of labels


@dataclass(frozen=True)
class AreaUnderCurve(SetMeasure):
    """The chance that a positive query outscores a negative one, ties counting half."""

    name = "auc"
    unit = "probability"

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        positive = _positive(targets)
        if not positive.any() or positive.all():
            raise ConfigError(
                "measure='auc' found queries of one class only. Expected both classes among the queries; add some of the other."
            )
        if outputs.shape[1] > (2 if targets.ndim == 1 else 1):
            raise ConfigError(
                f"measure='auc' found {outputs.shape[1]} outputs. Expected a binary model; pass a callable with aggregate='set' for a multi-class AUC."
            )
        scores = outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs[:, 0]  # (m, k)
        return torch.stack([_auc(column, positive) for column in scores.T])


@dataclass(frozen=True)
class CallableSet(SetMeasure):
    """Any callable (outputs, targets) → one number for the whole set."""

    function: Callable[[Tensor, Tensor], Tensor]
    trailing: tuple[int, ...]
    name: str = "callable"
    unit: str = "measure units"

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        versions = outputs.permute(2, 0, 1).reshape(outputs.shape[2], len(outputs), *self.trailing)
        given = _as_given(targets, outputs[..., 0], self.trailing)
        found = [torch.as_tensor(self.function(version, given)) for version in versions]
        if found[0].numel() != 1:
            raise ShapeError(
                f"the callable set measure returned shape {tuple(found[0].shape)}. Expected one number for the whole query set."
            )
        return torch.stack([value.reshape(()).to(outputs.dtype) for value in found])


def read_measure(
    measure: str | Callable[[Tensor, Tensor], Tensor],
    loss: Loss,
    trailing: tuple[int, ...],
    over_set: bool = False,
) -> Measure | SetMeasure:
    """A measure by name or by callable.

    Raises:
        ConfigError: an unknown name, or one this loss gives no meaning to.
    """
    if callable(measure):
        return _callable_measure(measure, trailing, over_set)
    if not isinstance(measure, str):
        raise ConfigError(
            f"measure={measure!r}. Expected one of {', '.join((*PER_EXAMPLE, *OVER_SET))} or a callable (outputs, targets) -> (b,), one at a time."
        )
    if measure == "loss":
        return Measure("loss", loss.unit, lambda eta, y: loss.judged(eta, y).unsqueeze(1))
    if measure == "prediction":
        return Measure("prediction", "output units", lambda eta, y: loss.shown(eta))
    if measure == "mean":
        return _expected(loss)
    if measure in OVER_SET and loss.kind in ("class", "binary", "sign", "proportion"):
        return Accuracy(loss) if measure == "accuracy" else AreaUnderCurve()
    if loss.kind == "proportion" and measure in _OF_A_PROBABILITY:
        function = _of_mean(_OF_A_PROBABILITY[measure], loss)
        return Measure(measure, _UNITS[measure], _of_hard_labels(function, measure))
    if (measure, loss.kind) in _TABLE:
        function = _TABLE[measure, loss.kind]
        return Measure(
            measure, _UNITS[measure], _of_hard_labels(function, measure) if loss.kind == "binary" else function
        )
    if measure in (*PER_EXAMPLE, *OVER_SET):
        raise ConfigError(
            f"measure={measure!r} has no meaning for loss {loss.name!r}. Expected 'loss', 'prediction' or a callable."
        )
    raise ConfigError(
        f"measure={measure!r} is unknown. Expected one of {', '.join((*PER_EXAMPLE, *OVER_SET))} or a callable (outputs, targets) -> (b,)."
    )


def _expected(loss: Loss) -> Measure:
    """E[y | x], a number a query, or one a class."""

    def values(outputs: Tensor, targets: Tensor) -> Tensor:
        found = loss.mean(outputs)
        if found is None:
            raise ConfigError(
                f"measure='mean' has no meaning for loss {loss.name!r}, which is no likelihood. Expected 'prediction', 'loss' or a callable."
            )
        return found

    return Measure("mean", "probability" if loss.kind in ("class", "binary", "proportion") else "target units", values)


def _of_mean(function: Callable[[Tensor], Tensor], loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of p_y, the probability of the query's own outcome."""

    def values(outputs: Tensor, targets: Tensor) -> Tensor:
        p = loss.mean(outputs)
        assert p is not None
        return function(torch.where(targets > 0.5, p, 1 - p))

    return values


def _of_each_version(loss: Loss, outputs: Float[Tensor, "m o k"]) -> Float[Tensor, "m o k"]:
    found = [loss.mean(version) for version in outputs.unbind(2)]
    return torch.stack([version for version in found if version is not None], 2)


def _of_hard_labels(function: Callable[[Tensor, Tensor], Tensor], measure: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The same, refusing soft targets, which have no class to speak of."""

    def values(outputs: Tensor, targets: Tensor) -> Tensor:
        soft = (targets != 0) & (targets != 1)
        if bool(soft.any()):
            raise ConfigError(
                f"measure={measure!r} found the target {float(targets[soft][0])}. Expected 0 or 1, a class; use measure='loss' or 'prediction' for soft targets."
            )
        return function(outputs, targets)

    return values


def _callable_measure(
    function: Callable[[Tensor, Tensor], Tensor], trailing: tuple[int, ...], over_set: bool
) -> Measure | SetMeasure:
    name = getattr(function, "__name__", "callable")
    if over_set:
        return CallableSet(function, trailing, name)

    def values(outputs: Tensor, targets: Tensor) -> Tensor:
        found = function(outputs.reshape(len(outputs), *trailing), _as_given(targets, outputs, trailing))
        if not isinstance(found, Tensor) or found.shape != (len(outputs),):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(
                f"the callable measure returned {shape} for {len(outputs)} queries. Expected ({len(outputs)},): one number a query; for one number over the set pass aggregate='set'."
            )
        return found.unsqueeze(1)

    return Measure(name, "measure units", values, free=True)


def _as_given(targets: Tensor, outputs: Tensor, trailing: tuple[int, ...]) -> Tensor:
    """Targets in the shape of the model's outputs where the loss is a sum over outputs."""
    return targets.reshape(len(targets), *trailing) if targets.shape == outputs.shape else targets


def _chosen(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.gather(1, targets.unsqueeze(1))


def _log_odds(outputs: Tensor, targets: Tensor) -> Tensor:
    """log p_y/(1 − p_y) = η_y − log Σ_{k≠y} exp η_k."""
    others = torch.ones_like(outputs, dtype=torch.bool).scatter(1, targets.unsqueeze(1), False)
    return _chosen(outputs, targets) - torch.logsumexp(outputs.masked_fill(~others, -torch.inf), 1, keepdim=True)


_OF_A_PROBABILITY: dict[str, Callable[[Tensor], Tensor]] = {
    "probability": lambda p: p,
    "margin": torch.logit,
    "logit": torch.logit,
}
_UNITS = {"logit": "log-odds", "margin": "log-odds", "probability": "probability"}
_TABLE: dict[tuple[str, str], Callable[[Tensor, Tensor], Tensor]] = {
    ("logit", "class"): _chosen,
    ("margin", "class"): _log_odds,
    ("probability", "class"): lambda eta, y: _chosen(torch.softmax(eta, 1), y),
    ("logit", "binary"): lambda eta, y: (2 * y - 1) * eta,
    ("margin", "binary"): lambda eta, y: (2 * y - 1) * eta,
    ("probability", "binary"): lambda eta, y: torch.sigmoid((2 * y - 1) * eta),
    ("logit", "sign"): lambda eta, y: y * eta,
    ("margin", "sign"): lambda eta, y: y * eta,
}


def _positive(targets: Tensor) -> Tensor:
    return targets.reshape(len(targets), -1)[:, 0] > 0


def _auc(scores: Tensor, positive: Tensor) -> Tensor:
    """The Mann-Whitney statistic by average ranks: O(m log m)."""
    _, inverse, counts = scores.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).to(scores.dtype)
    ranks = (ends - (counts.to(scores.dtype) - 1) / 2)[inverse]
    n = positive.sum()
    return (ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n))
