"""Softmax's shift gauge: directions that move every class alike and so change no probability."""

import torch

from upweight._typing import Float, Tensor
from upweight.linop import LinearOperator
from upweight.objective import Objective

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""‖vH‖ below this share of a typical direction's is zero: a shift's true product is rounding of the model's type."""


def shift_gauge(
    objective: Objective, curvature: LinearOperator, penalty: Float[Tensor, "p"] | None = None
) -> Float[Tensor, "g p"] | None:
    """Orthonormal directions N with N H = 0 because softmax ignores a shift common to all classes.

    Candidates are the shifts of each column of a parameter whose leading axis is the classes; each is
    kept only if H really vanishes along it. ``penalty`` is ∇²r of this curvature, where it is not the objective's.
    """
    if objective.loss.kind != "class":
        return None
    classes = objective.trailing[0]
    found, theta, scale = [], objective.theta.double(), None
    penalised = objective.penalty.diagonal if penalty is None else penalty
    for where, shape in zip(objective.space.slices().values(), objective.space.shapes, strict=True):
        if not shape or shape[0] != classes:
            continue
        width = (where.stop - where.start) // classes
        free = (penalised[where].view(classes, width) == 0).all(0)  # what is penalised is no gauge
        units = torch.eye(width, dtype=theta.dtype, device=theta.device)[free.to(theta.device)]
        shifts = theta.new_zeros(len(units), len(theta))
        shifts[:, where] = units.repeat(1, classes) / classes**0.5
        if not len(shifts):
            continue
        scale = typical_product(curvature, theta) if scale is None else scale
        flat = (shifts @ curvature).norm(dim=1) <= TOLERANCE.get(objective.theta.dtype, 1e-3) * scale
        found.append(shifts[flat])
    directions = torch.cat(found) if found else theta.new_zeros(0, len(theta))
    return directions if len(directions) else None


def typical_product(curvature: LinearOperator, like: Float[Tensor, "p"]) -> float:
    """‖vH‖ for a random unit direction v: the root mean square eigenvalue, near enough to compare with."""
    direction = torch.randn(1, len(like), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    return float(((direction / direction.norm()) @ curvature).norm())
