"""DataInf: each layer's inverse replaced by the average of its examples' inverses."""

from __future__ import annotations

from typing import Any

from upweight._typing import Float, Tensor
from upweight.curvature import identity
from upweight.gradients import rows
from upweight.influence.formula import effect
from upweight.linop import BlockDiagonal
from upweight.objective import Objective
from upweight.solve.averaged import AveragedInverse


def datainf(objective: Objective, query: Any, share: float = 0.1) -> Float[Tensor, "m n"]:
    """∇ℓ_qᵀ[⊕_ℓ Σᵢ w̄ᵢ(g_{ℓi}g_{ℓi}ᵀ + λ_ℓI)⁻¹]∇ℓᵢ: DataInf (Kwon, Wu, Wu & Zou 2024).

    Args:
        share: λ_ℓ in units of the mean square of the layer's gradient entries, .1 in the paper.

    Error and cost:
        n·p numbers; the swap of average and inverse has no bound.
    """
    trained, weights = rows(objective), objective.weights / objective.total_weight
    parts = []
    for layout, _ in identity(objective).parts:
        own = layout.gather(trained.dense().double())
        parts.append((layout, AveragedInverse(own, weights, share * float(weights @ own.square().mean(1)))))
    return -effect(rows(objective, query).dense().double(), BlockDiagonal(objective.space.size, tuple(parts)), trained)
