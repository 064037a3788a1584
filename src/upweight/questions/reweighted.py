"""The objective at other weights and another penalty: what remains after a change of the training set."""

from __future__ import annotations

from dataclasses import dataclass

from upweight._typing import Float, Tensor
from upweight.gradients import Engine
from upweight.linop import Dense


@dataclass(frozen=True)
class Reweighted:
    """Q′(θ) = Σ w′ᵢℓᵢ(θ) + ½θᵀdiag(d′)θ."""

    engine: Engine
    weights: Float[Tensor, "n"]
    penalty: Float[Tensor, "p"]

    def value(self, theta: Float[Tensor, "p"]) -> float:
        """Q′(θ)."""
        return float(self.engine.value(self.weights, theta) + 0.5 * (self.penalty * theta.square()).sum())

    def gradient(self, theta: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """∇Q′(θ)."""
        return self.engine.gradient(self.weights, theta) + self.penalty * theta

    def hessian(self, theta: Float[Tensor, "p"]) -> Dense:
        """∇²Q′(θ)."""
        matrix = self.engine.hessian(self.engine.objective.examples, self.weights, theta)
        matrix.diagonal().add_(self.penalty.to(matrix))
        return Dense(matrix, is_symmetric=True)
