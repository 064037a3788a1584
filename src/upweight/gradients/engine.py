"""What a fitted model must tell the algebra, one row or one Jacobian an example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np
import torch

from upweight._typing import Batch, Float, Tensor
from upweight.objective import Examples, Objective
from upweight.objective.data import Chosen
from upweight.tiles import Block, Jacobian


class Engine(ABC):
    """Outputs, gradients, Jacobians and Hessians of one objective, batch by batch.

    θ defaults to θ̂. Batches are read with ``batches``; the model is never modified.
    """

    objective: Objective

    @property
    @abstractmethod
    def tile(self) -> int:
        """Examples read at a time."""

    @abstractmethod
    def outputs(
        self, batch: Batch, theta: Float[Tensor, "p"] | None = None, names: np.ndarray | None = None
    ) -> tuple[Float[Tensor, "b o"], Tensor]:
        """Flat outputs η and checked targets."""

    @abstractmethod
    def gradients(self, batch: Batch, theta: Float[Tensor, "p"] | None = None) -> Block:
        """The rows ∇ℓᵢ(θ)."""

    @abstractmethod
    def jacobian(self, batch: Batch) -> Jacobian:
        """Jᵢ = ∂ηᵢ/∂θ at θ̂."""

    @abstractmethod
    def function_of(self, batch: Batch, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """θ ↦ η of a batch, in another floating-point type."""

    def linearised(
        self, batch: Batch, names: np.ndarray | None = None
    ) -> tuple[Float[Tensor, "b o"], Tensor, Jacobian]:
        """η, checked targets and J of a batch at θ̂: from one pass where the engine can."""
        return *self.outputs(batch, names=names), self.jacobian(batch)

    @abstractmethod
    def hessian(
        self, examples: Examples, weights: Float[Tensor, "n"], theta: Float[Tensor, "p"] | None = None
    ) -> Float[Tensor, "p p"]:
        """Σ wᵢ ∇²ℓᵢ(θ), in float64, without the penalty."""

    @abstractmethod
    def curvature_times(self, batch: Batch, direction: Float[Tensor, "p"]) -> Float[Tensor, "b p"]:
        """The rows ∇²ℓᵢ(θ̂) s."""

    @abstractmethod
    def input_gradient(self, batch: Batch, rows: Float[Tensor, "m p"]) -> Tensor:
        """∂/∂xᵢ ⟨v, ∇ℓᵢ⟩ for every row v: (b, m, ...), the shape of one input last."""

    def batches(self, examples: Examples | None = None) -> Iterator[tuple[slice, Batch]]:
        """The training set, or other examples, a tile at a time on the model's device."""
        for where, batch in (self.objective.examples if examples is None else examples).batches(self.tile):
            yield where, self.objective.moved(batch)

    def own_batches(self, examples: Examples | None = None) -> Iterator[tuple[slice, Batch]]:
        """This rank's part of them, at their places in the whole; without ranks all of them."""
        examples, fold = self.objective.examples if examples is None else examples, self.objective.fold
        start, stop = fold.share(len(examples))
        if stop - start == len(examples):
            yield from self.batches(examples)
        elif start < stop:
            for where, batch in self.batches(Chosen(examples, np.arange(start, stop))):
                yield slice(where.start + start, where.stop + start), batch

    def value(
        self, weights: Float[Tensor, "n"], theta: Float[Tensor, "p"], examples: Examples | None = None
    ) -> Float[Tensor, ""]:
        """Σ wᵢ ℓᵢ(θ) over the training set or other examples, without the penalty."""
        total = weights.new_zeros(())
        with self.objective.fold.phase("values"):
            for where, batch in self.own_batches(examples):
                total += weights[where] @ self.objective.loss.values(*self.outputs(batch, theta)).to(weights.dtype)
        self.objective.fold.sum("values", [total])
        return total

    def gradient(
        self, weights: Float[Tensor, "n"], theta: Float[Tensor, "p"] | None = None, examples: Examples | None = None
    ) -> Float[Tensor, "p"]:
        """Σ wᵢ ∇ℓᵢ(θ) over the training set or other examples, without the penalty."""
        total = weights.new_zeros(self.objective.space.size)
        with self.objective.fold.phase("gradients"):
            for where, batch in self.own_batches(examples):
                self.gradients(batch, theta).add_sum(weights[where], total)
        self.objective.fold.sum("gradients", [total])
        return total
