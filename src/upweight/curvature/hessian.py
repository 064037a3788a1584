"""The exact Hessian H = ∇²Q(θ̂) [KL17 A2]."""

from __future__ import annotations

from upweight._typing import Float, Tensor
from upweight.gradients import Engine, engine_for
from upweight.linop import Dense
from upweight.objective import Objective


def hessian(objective: Objective) -> Dense:
    """H = Σ wᵢ∇²ℓᵢ(θ̂) + ∇²r, written out in float64.

    Returns:
        A symmetric Dense operator of size p.

    Error and cost:
        Exact. Linear models: o(o+1)/2 weighted Grams, n·i² each. Others: p double backward passes.
    """
    return hessian_of(engine_for(objective))


def hessian_of(
    engine: Engine, weights: Float[Tensor, "n"] | None = None, theta: Float[Tensor, "p"] | None = None
) -> Dense:
    """H at other weights or another θ, from an engine already made."""
    objective = engine.objective
    matrix = engine.hessian(objective.examples, objective.weights if weights is None else weights, theta)
    matrix.diagonal().add_(objective.penalty.diagonal.to(matrix))
    return Dense(matrix, is_symmetric=True)
