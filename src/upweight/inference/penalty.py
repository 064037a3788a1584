"""The derivative of measurements in the strength of the penalty.

dθ̂/dλ = −H⁻¹ ∂∇r/∂λ,   ∂∇r/∂λ = θ where an l2 penalty acts, sign(θ) where an l1 penalty does
"""

from __future__ import annotations

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.influence.effects import Effects
from upweight.questions.question import Question


def penalty_derivative(question: Question) -> Effects:
    """One column a kind of penalty: 'l2', and 'l1' where there is one."""
    fitted = question.fitted
    rows = directions(question)
    moves = -(torch.stack(list(rows.values())) @ fitted.exact.inverse.T)
    return question.effects(question.of_moves(moves, "first"), np.asarray(list(rows)), "penalty_derivative")


def directions(question: Question) -> dict[str, Float[Tensor, "p"]]:
    """∂∇r/∂λ: per unit of λ on the coordinates the penalty acts on, or would act on."""
    objective = question.fitted.objective
    penalty, theta = objective.penalty, objective.theta.double()
    found: dict[str, Tensor] = {}
    if penalty.slope is None or bool(penalty.diagonal.any()):
        found["l2"] = _reach(penalty.diagonal, penalty.reach, theta) * theta
    if penalty.slope is not None:
        found["l1"] = penalty.slope.to(theta).sign()
    return found


def _reach(diagonal: Tensor, reach: Tensor | None, theta: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
    if reach is not None:
        return reach.to(theta)
    return (diagonal > 0).to(theta) if bool(diagonal.any()) else torch.ones_like(theta)
