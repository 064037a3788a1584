"""The generalised Gauss-Newton matrix Σ wᵢ JᵢᵀΛᵢJᵢ + ∇²r: H without the curvature of the model itself."""

import torch

from upweight.gradients import Engine, engine_for
from upweight.linop import Dense
from upweight.objective import Objective


def ggn(source: Objective | Engine) -> Dense:
    """The Gauss-Newton matrix, in float64: positive semi-definite for a convex loss, equal to H for a linear model.

    Error and cost:
        Leaves out Σ wᵢ ∇_ηℓᵢ·∇²ηᵢ. One Jacobian an example (o backward passes) and n·o·p² products.
    """
    engine = engine_for(source) if isinstance(source, Objective) else source
    objective = engine.objective
    matrix = torch.zeros(objective.space.size, objective.space.size, dtype=torch.float64, device=objective.theta.device)
    with objective.fold.phase("Gauss-Newton matrix"):
        for where, batch in engine.own_batches():
            weights = objective.weights[where, None, None].to(objective.theta.dtype)
            outputs, targets, jacobian = engine.linearised(batch)
            jacobian.add_gram(objective.loss.hessian(outputs, targets) * weights, matrix)
    objective.fold.sum("Gauss-Newton matrix", [matrix])
    matrix.diagonal().add_(objective.penalty.diagonal.to(matrix))
    return Dense(matrix, is_symmetric=not objective.saddle)
