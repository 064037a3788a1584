"""Gradient products: plain, by angle, and influence divided by how far a point moves the model."""

from __future__ import annotations

from typing import Any

import torch

from upweight._typing import Float, Tensor
from upweight.curvature import identity
from upweight.errors import ConfigError
from upweight.gradients import rows
from upweight.influence.formula import effect
from upweight.linop import LinearOperator
from upweight.objective import Objective
from upweight.solve import inverse


def grad_dot(objective: Objective, query: Any) -> Float[Tensor, "m n"]:
    """∇ℓ_q·∇ℓᵢ: influence with the identity for curvature."""
    return -effect(rows(objective, query), inverse(identity(objective)), rows(objective))


def grad_cos(objective: Objective, query: Any) -> Float[Tensor, "m n"]:
    """∇ℓ_q·∇ℓᵢ / (‖∇ℓ_q‖‖∇ℓᵢ‖), the cosine of the angle between two gradients.

    A gradient that is zero has no direction: its scores are zero.
    """
    asked, trained = rows(objective, query).lengths(), rows(objective).lengths()
    tiny = torch.finfo(asked.dtype).tiny
    return grad_dot(objective, query) / (asked[:, None] * trained).clamp_min(tiny)


def relatif(objective: Objective, query: Any, solved: LinearOperator, constraint: str = "loss") -> Float[Tensor, "m n"]:
    """Influence under a bound on how much a point may change the model: RelatIF (Barshan, Brunet & Dziugaite 2020).

        loss        ∇ℓ_qᵀH⁻¹∇ℓᵢ / √(∇ℓᵢᵀH⁻¹∇ℓᵢ)     ℓ-RelatIF: a bound on the expected change of outputs
        parameters  ∇ℓ_qᵀH⁻¹∇ℓᵢ / ‖H⁻¹∇ℓᵢ‖          θ-RelatIF: a bound on the change of parameters

    Args:
        solved: H⁻¹, from ``uw.inverse``.

    Raises:
        ConfigError: another constraint.

    Error and cost:
        Exact; n·p numbers.
    """
    if constraint not in ("loss", "parameters"):
        raise ConfigError(f"relatif found constraint={constraint!r}. Expected 'loss' or 'parameters'.")
    trained = rows(objective)
    moves = trained @ solved.T  # (n, p)
    squares = torch.linalg.vecdot(moves, moves if constraint == "parameters" else trained.dense().to(moves))
    lengths = squares.clamp_min(torch.finfo(moves.dtype).tiny).sqrt()
    return -effect(rows(objective, query), solved, trained) / lengths
