"""The exact Hessian H = ∇²Q(θ̂) [KL17 A2]."""

from __future__ import annotations

from upweight.gradients import Engine, engine_for
from upweight.linop import Dense
from upweight.objective import Objective


def hessian(source: Objective | Engine) -> Dense:
    """H = Σ wᵢ∇²ℓᵢ(θ̂) + ∇²r, written out in float64.

    Returns:
        A symmetric Dense operator of size p.

    Error and cost:
        Exact. Linear models: o(o+1)/2 weighted Grams, n·i² each. Others: p double backward passes.
    """
    engine = engine_for(source) if isinstance(source, Objective) else source
    objective = engine.objective
    matrix = engine.hessian(objective.examples, objective.weights)
    matrix.diagonal().add_(objective.penalty.diagonal.to(matrix))
    return Dense(matrix, is_symmetric=not objective.saddle)
