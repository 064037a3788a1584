"""Losses given as formulas: their derivatives in the outputs are taken by autograd, exactly."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import ShapeError
from upweight.objective.elementwise import Elementwise
from upweight.objective.loss import Loss

Formula = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) → numbers, each of which depends on its own example alone."""


class Formulated(Elementwise):
    """A loss of one term an output that only has to be written down: slope and curve follow."""

    @abstractmethod
    def term(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "b o"]:
        """The term of each output."""

    def slope(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return derivative(self.term, outputs, targets)

    def curve(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return derivative(lambda eta, y: derivative(self.term, eta, y), outputs, targets)


class Joint(Loss):
    """A loss in which several outputs of an example meet: a mean and a dispersion, two equations of one system.

    Targets are (b,) or (b, c), as many columns as the formula reads.
    """

    outputs: int
    kind = "real"

    @abstractmethod
    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """ℓ."""

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return derivative(self.values, outputs, targets)

    def hessian(self, outputs: Tensor, targets: Tensor) -> Tensor:
        slopes = [
            derivative(lambda eta, y, k=k: self.gradient(eta, y)[:, k], outputs, targets)
            for k in range(outputs.shape[1])
        ]
        return torch.stack(slopes, 1)  # (b, o, o)

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        if outputs.ndim != 2 or outputs.shape[1] != self.outputs or len(targets) != len(outputs):
            raise ShapeError(
                f"{self.name} found outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}. Expected (b, {self.outputs}) and one target an example."
            )
        return outputs, targets.to(outputs.dtype)


def derivative(formula: Formula, outputs: Tensor, targets: Tensor) -> Tensor:
    """∂(Σ formula)/∂outputs: each example's own derivative. Differentiable again where the outputs are."""
    again = torch.is_grad_enabled() and outputs.requires_grad
    with torch.enable_grad():
        at = outputs if outputs.requires_grad else outputs.detach().requires_grad_()
        total = formula(at, targets).sum() + 0 * at.sum()  # a formula may leave an output out
        return torch.autograd.grad(total, at, create_graph=again)[0]
