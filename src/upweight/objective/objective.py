"""The objective Q(θ; w) = Σ wᵢ ℓᵢ(θ) + r(θ) that the parameters minimise [KL17 A1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from upweight._typing import Batch, Float, Tensor
from upweight.objective.data import Examples, map_tensors
from upweight.objective.loss import Loss
from upweight.objective.penalties import Quadratic
from upweight.parallel import HERE, Fold
from upweight.router import UNBOUNDED, Room
from upweight.space import ParameterSpace

Forward = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
"""(model, batch) → (outputs, targets)."""


@dataclass(frozen=True)
class Objective:
    """A model, its training data and what was minimised: everything the truth is made of.

    Q(θ; w) = Σ wᵢ ℓᵢ(θ) + r(θ)    [KL17 A1, with weights and a penalty]

    Attributes:
        weights: wᵢ, (n,); 1/n each is the mean loss, 1 each the sum.
        theta: θ̂, the tracked parameters as they were found, flat.
        trailing: shape of one example's outputs before they are flattened to (o,).
        precision: of the model's forward and backward passes, where layers are captured; None is the parameters' own.
        batch_size: examples read at a time; None lets the engine choose. No result depends on it.
        fold: how sums over the examples are taken: here, or by ranks that share them out.
        room: how the memory that may be taken is divided.
        saddle: θ̂ is a stationary point and no minimum, as for estimators that are defined by equations.
    """

    model: nn.Module
    forward: Forward
    loss: Loss
    examples: Examples
    weights: Float[Tensor, "n"]
    penalty: Quadratic
    space: ParameterSpace
    theta: Float[Tensor, "p"]
    trailing: tuple[int, ...]
    batch_size: int | None = None
    precision: torch.dtype | None = None
    saddle: bool = False
    fold: Fold = HERE
    room: Room = UNBOUNDED

    @property
    def count(self) -> int:
        """n."""
        return len(self.examples)

    @property
    def outputs(self) -> int:
        """o, the outputs of one example."""
        return prod(self.trailing)

    @property
    def total_weight(self) -> float:
        """Σ wᵢ."""
        return float(self.weights.sum())

    def moved(self, batch: Batch) -> Batch:
        """A batch on the device of the parameters."""
        return map_tensors(batch, lambda tensor: tensor.to(self.theta.device))


def plain_forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The forward of (inputs, targets) batches: ``model(inputs), targets``."""
    inputs, targets = batch
    return model(inputs), targets
