"""Losses that add one term an output: their Λ is diagonal."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import LabelError, ShapeError
from upweight.objective.loss import Loss, ThinHessian


class Elementwise(Loss):
    """A loss that adds one term an output: Λ is diagonal."""

    @abstractmethod
    def term(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "b o"]:
        """The term of each output."""

    @abstractmethod
    def slope(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "b o"]:
        """Its first derivative."""

    @abstractmethod
    def curve(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "b o"]:
        """Its second derivative."""

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.term(outputs, targets).sum(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.slope(outputs, targets)

    def hessian(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.diag_embed(self.curve(outputs, targets))

    def thin_hessian(self, outputs: Tensor, targets: Tensor) -> ThinHessian:
        return ThinHessian(self.curve(outputs, targets))

    def root(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.diag_embed(self.curve(outputs, targets).clamp_min(0).sqrt())

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        if outputs.shape != targets.shape:
            raise ShapeError(
                f"{self.name} found outputs of shape {shape_of(outputs)} against targets {shape_of(targets)}, which would broadcast. "
                f"Expected equal shapes; reshape one of them, e.g. targets.reshape({(-1, *outputs.shape[1:])}) or outputs.squeeze(1)."
            )
        return outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1).to(outputs.dtype)

    def _refuse(self, targets: Tensor, wrong: Tensor, expected: str, names: Sequence[Any] | np.ndarray) -> None:
        found = wrong.reshape(len(wrong), -1).any(1).nonzero()
        if len(found):
            where = int(found[0])
            raise LabelError(
                f"{called(names, where)} has target {targets[where].flatten()[0].item()}. {self.name} expected {expected}; recode the targets."
            )


def shape_of(tensor: Tensor) -> str:
    """A shape for a message."""
    return str(tuple(tensor.shape))


def called(names: Sequence[Any] | np.ndarray, position: int) -> str:
    """An example's name for a message."""
    return f"example {names[position]}" if len(names) else f"example {position} of the batch"
