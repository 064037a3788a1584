"""The objective at other weights and another penalty: what remains after a change of the training set."""

from __future__ import annotations

from dataclasses import dataclass

from upweight._typing import Float, Tensor
from upweight.gradients import Engine
from upweight.linop import Dense
from upweight.objective import Examples, Quadratic


@dataclass(frozen=True)
class Reweighted:
    """Q′(θ) = Σ w′ᵢℓᵢ(θ) + Σ vⱼℓⱼ(θ) + r′(θ), the second sum over examples that were not there before."""

    engine: Engine
    weights: Float[Tensor, "n"]
    penalty: Quadratic
    extra: Examples | None = None
    added: Float[Tensor, "x"] | None = None

    @property
    def total(self) -> float:
        """Σ w′ + Σ v."""
        return float(self.weights.sum()) + (0.0 if self.added is None else float(self.added.sum()))

    def value(self, theta: Float[Tensor, "p"]) -> float:
        """Q′(θ)."""
        found = self.engine.value(self.weights, theta) + self.penalty.value(theta)
        if self.extra is not None and self.added is not None:
            found = found + self.engine.value(self.added, theta, self.extra)
        return float(found)

    def gradient(self, theta: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """∇Q′(θ)."""
        found = self.engine.gradient(self.weights, theta) + self.penalty.gradient(theta)
        if self.extra is not None and self.added is not None:
            found = found + self.engine.gradient(self.added, theta, self.extra)
        return found

    def hessian(self, theta: Float[Tensor, "p"]) -> Dense:
        """∇²Q′(θ)."""
        objective = self.engine.objective
        matrix = self.engine.hessian(objective.examples, self.weights, theta)
        if self.extra is not None and self.added is not None:
            matrix = matrix + self.engine.hessian(self.extra, self.added, theta)
        matrix.diagonal().add_(self.penalty.diagonal.to(matrix))
        return Dense(matrix, is_symmetric=not objective.saddle)
