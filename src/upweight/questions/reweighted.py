"""The objective at other weights and another penalty: what remains after a change of the training set."""

from __future__ import annotations

from dataclasses import dataclass

from upweight._typing import Float, Tensor
from upweight.gradients import Engine
from upweight.linop import Dense
from upweight.objective import Quadratic


@dataclass(frozen=True)
class Reweighted:
    """Q′(θ) = Σ w′ᵢℓᵢ(θ) + r′(θ)."""

    engine: Engine
    weights: Float[Tensor, "n"]
    penalty: Quadratic

    def value(self, theta: Float[Tensor, "p"]) -> float:
        """Q′(θ)."""
        return float(self.engine.value(self.weights, theta) + self.penalty.value(theta))

    def gradient(self, theta: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """∇Q′(θ)."""
        return self.engine.gradient(self.weights, theta) + self.penalty.gradient(theta)

    def hessian(self, theta: Float[Tensor, "p"]) -> Dense:
        """∇²Q′(θ)."""
        objective = self.engine.objective
        matrix = self.engine.hessian(objective.examples, self.weights, theta)
        matrix.diagonal().add_(self.penalty.diagonal.to(matrix))
        return Dense(matrix, is_symmetric=not objective.saddle)
