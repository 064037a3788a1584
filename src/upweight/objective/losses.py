"""Per-example losses ℓ(η, y) with their first and second derivatives in the outputs η.

Outputs arrive flat, (b, o). A loss the table does not know is differentiated automatically.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from upweight._typing import Tensor
from upweight.errors import ConfigError, LabelError, ShapeError, names_like
from upweight.objective.draws import Draws
from upweight.objective.elementwise import Elementwise, called, shape_of
from upweight.objective.hinges import SmoothHinge
from upweight.objective.loss import Loss, ThinHessian
from upweight.objective.tokens import TokenCrossEntropy


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """log Σ exp η − η_y for class labels y."""

    name = "cross_entropy"
    unit = "nats"
    kind = "class"

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.logsumexp(outputs, 1) - outputs.gather(1, targets.unsqueeze(1)).squeeze(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.softmax(outputs, 1) - F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)

    def hessian(self, outputs: Tensor, targets: Tensor) -> Tensor:
        p = torch.softmax(outputs, 1)
        return torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)  # (b, o, o)

    def thin_hessian(self, outputs: Tensor, targets: Tensor) -> ThinHessian:
        p = torch.softmax(outputs, 1)
        return ThinHessian(p, p)

    def mean(self, outputs: Tensor) -> Tensor:
        return torch.softmax(outputs, 1)

    def root(self, outputs: Tensor, targets: Tensor) -> Tensor:
        p = torch.softmax(outputs, 1)
        return torch.diag_embed(p.sqrt()) - p.unsqueeze(2) * p.sqrt().unsqueeze(1)  # √p_k (e_k − p), label k a column

    def sampled(self, outputs: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        p = torch.softmax(outputs, 1)
        labels = torch.searchsorted(p.double().cumsum(1), draws.uniform(1).to(p.device)).squeeze(1)
        return self.gradient(outputs, labels.clamp_max(p.shape[1] - 1))

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            hint = (
                "binary_cross_entropy' for one logit an example"
                if outputs.ndim < 3
                else "token_cross_entropy' for one label a position"
            )
            raise ShapeError(
                f"cross_entropy found outputs of shape {shape_of(outputs)}. Expected (b, classes) with at least 2 classes; use loss='{hint}."
            )
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise LabelError(
                f"cross_entropy found targets of type {targets.dtype}. Expected integer class labels; use targets.long()."
            )
        if targets.shape != outputs.shape[:1]:
            raise ShapeError(
                f"cross_entropy found targets of shape {shape_of(targets)} against outputs {shape_of(outputs)}. Expected ({len(outputs)},): one label an example."
            )
        wrong = ((targets < 0) | (targets >= outputs.shape[1])).nonzero()
        if len(wrong):
            raise LabelError(
                f"{called(names, int(wrong[0]))} has label {int(targets[wrong[0]])}. Expected 0 to {outputs.shape[1] - 1}, "
                f"since the model has {outputs.shape[1]} outputs; recode the labels or widen the last layer."
            )
        return outputs, targets.long()


@dataclass(frozen=True)
class BinaryCrossEntropy(Elementwise):
    """log(1 + exp η) − yη on logits, y in [0, 1], summed over outputs or (``averaged``) their mean."""

    averaged: bool = False
    outputs: int = 1
    name = "binary_cross_entropy"
    unit = "nats"
    kind = "binary"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (F.softplus(outputs) - targets * outputs) / self.outputs

    def slope(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (torch.sigmoid(outputs) - targets) / self.outputs

    def curve(self, outputs: Tensor, targets: Tensor) -> Tensor:
        p = torch.sigmoid(outputs)
        return p * (1 - p) / self.outputs

    def mean(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(outputs)

    def squared_residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        p = torch.sigmoid(outputs)
        return ((targets - p).square() / (p * (1 - p))).sum(1)

    def bound(self, trailing: tuple[int, ...]) -> Loss:
        return replace(self, outputs=prod(trailing)) if self.averaged else self

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        outputs, targets = super().prepare(outputs, targets, names)
        self._refuse(targets, (targets < 0) | (targets > 1), "targets from 0 to 1", names)
        return outputs, targets

    def sampled(self, outputs: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        p = torch.sigmoid(outputs)
        return (p - (draws.uniform(p.shape[1]).to(p.device) < p).to(p)) / self.outputs**0.5


@dataclass(frozen=True)
class SquaredError(Elementwise):
    """½(η − y)², summed over outputs."""

    name = "squared_error"
    unit = "squared target units"
    kind = "real"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs - targets).square()

    def slope(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs - targets

    def curve(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.ones_like(outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs

    def squared_residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (targets - outputs).square().sum(1)


@dataclass(frozen=True)
class Poisson(Elementwise):
    """exp η − yη: −log p of the Poisson with a log link, half its deviance, up to a constant in y."""

    name = "poisson"
    unit = "nats"
    kind = "count"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.exp(outputs) - targets * outputs

    def slope(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.exp(outputs) - targets

    def curve(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.exp(outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        return torch.exp(outputs)

    def squared_residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mu = torch.exp(outputs)
        return ((targets - mu).square() / mu).sum(1)

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        outputs, targets = super().prepare(outputs, targets, names)
        self._refuse(targets, targets < 0, "counts of zero or more", names)
        return outputs, targets


@dataclass(frozen=True)
class CallableLoss(Loss):
    """Any callable (outputs, targets) → (b,), differentiated automatically."""

    function: Callable[[Tensor, Tensor], Tensor]
    trailing: tuple[int, ...] = ()
    name: str = "callable"
    unit = "loss units"
    kind = "free"

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.function(outputs.reshape(len(outputs), *self.trailing), targets)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(self._one))(outputs, targets)

    def hessian(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.jacrev(torch.func.jacrev(self._one)))(outputs, targets)

    def _one(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.values(outputs.unsqueeze(0), targets.unsqueeze(0)).reshape(())

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        losses = self._called(outputs, targets)
        if not isinstance(losses, Tensor) or losses.shape != outputs.shape[:1]:
            found = shape_of(losses) if isinstance(losses, Tensor) else type(losses).__name__
            raise ShapeError(
                f"the callable loss returned {found} for a batch of {len(outputs)}. Expected a tensor of shape ({len(outputs)},): "
                "one loss an example, no mean or sum over the batch (for torch losses, reduction='none')."
            )
        alone = self.function(outputs[:1], targets[:1])
        if len(outputs) > 1 and not torch.allclose(alone, losses[:1], rtol=ALONE, atol=ALONE, equal_nan=True):
            raise ShapeError(
                f"the callable loss gives example 0 a loss of {float(losses[0]):.6g} in a batch of {len(outputs)} and {float(alone[0]):.6g} alone. "
                "Expected each example's own loss: shapes that broadcast, or a division by the batch, mix examples; reshape the targets, or return (b,) without dividing."
            )
        return outputs.reshape(len(outputs), -1), targets

    def _called(self, outputs: Tensor, targets: Tensor) -> Any:
        try:
            return self.function(outputs, targets)
        except TypeError as error:
            raise ConfigError(
                f"the callable loss could not be called as loss(outputs, targets): {error}. Expected a function of these two tensors "
                "that returns one loss an example; the model and its batch are called by forward=."
            ) from error

    def bound(self, trailing: tuple[int, ...]) -> Loss:
        return replace(self, trailing=trailing)


ALONE = 1e-3
"""How closely a loss in a batch and alone must agree: rounding of half-precision models, not a factor of two."""

HINTS = {
    "mse": "'squared_error' is ½(f−y)²; pass nn.MSELoss() for the mean over outputs. ",
    "bce": "'binary_cross_entropy' is on logits. ",
    "ce": "It is called 'cross_entropy'. ",
    "hinge": "It has no second derivative; 'smooth_hinge' has. ",
}
"""What is likely meant by other libraries' names."""

NAMED: dict[str, Callable[[], Loss]] = {
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "squared_error": SquaredError,
    "poisson": Poisson,
    "smooth_hinge": SmoothHinge,
    "token_cross_entropy": TokenCrossEntropy,
}


def smooth_hinge(temperature: float | int = 0.1) -> SmoothHinge:
    """The smoothed hinge loss of temperature t > 0; the exact hinge is its limit t → 0 [KL17 4.2]."""
    if not temperature > 0:
        raise ConfigError(
            f"smooth_hinge found temperature={temperature}. Expected a number above 0; the paper uses 0.001 to 0.1."
        )
    return SmoothHinge(float(temperature))


def read_loss(loss: str | Loss | nn.Module | Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """A loss by name, by ``nn`` module (of any reduction, read as its per-example form) or by callable.

    Raises:
        ConfigError: an unknown name, or something that cannot be called.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in NAMED:
        return NAMED[loss]()
    if isinstance(loss, nn.Module):
        return _per_example(loss)
    if callable(loss):
        return CallableLoss(loss, name=getattr(loss, "__name__", "callable"))
    hint = HINTS.get(str(loss).lower(), "")
    raise ConfigError(
        f"loss={loss!r} is unknown. {hint}Expected {names_like(loss, NAMED)}, an nn loss module, or a callable (outputs, targets) -> (b,)."
    )


def _per_example(module: nn.Module) -> Loss:
    reduction = getattr(module, "reduction", "none")
    if isinstance(module, nn.CrossEntropyLoss | nn.NLLLoss):
        uneven = module.weight is not None or module.ignore_index >= 0
        if uneven and reduction == "mean":
            raise ConfigError(
                f"{type(module).__name__} with class weights or ignore_index divides by the weight of its batch, which is no loss of one example. "
                "Expected reduction='sum' or 'none'; or pass loss='cross_entropy' and weights=w[y] / w[y].sum()."
            )
        if type(module) is nn.CrossEntropyLoss and not uneven and not module.label_smoothing:
            return CrossEntropy()
    if type(module) is nn.BCEWithLogitsLoss and module.weight is None and module.pos_weight is None:
        return BinaryCrossEntropy(averaged=reduction == "mean")
    single = copy.deepcopy(module)
    if hasattr(single, "reduction"):
        single.reduction = "none"  # pyright: ignore

    def values(outputs: Tensor, targets: Tensor) -> Tensor:
        losses = single(outputs, targets)
        if losses.ndim <= 1:
            return losses
        return losses.flatten(1).mean(1) if reduction == "mean" else losses.flatten(1).sum(1)

    return _ModuleLoss(values, name=type(module).__name__, of_classes=isinstance(module, OF_CLASSES))


OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.CTCLoss)
"""Losses whose targets are classes, one for many outputs."""


@dataclass(frozen=True)
class _ModuleLoss(CallableLoss):
    """An ``nn`` loss in its per-example form; losses of numbers still refuse to broadcast."""

    of_classes: bool = False

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        if not self.of_classes and targets.shape != outputs.shape:
            raise ShapeError(
                f"{self.name} found outputs of shape {shape_of(outputs)} against targets {shape_of(targets)}, which would broadcast. Expected equal shapes; reshape one of them, e.g. targets.reshape({(-1, *outputs.shape[1:])})."
            )
        return super().prepare(outputs, targets, names)
