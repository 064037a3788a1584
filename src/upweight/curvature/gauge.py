"""Softmax's shift gauge: directions that move every class alike and so change no probability."""

import torch

from upweight._typing import Float, Tensor
from upweight.objective import Objective

TOLERANCE = 1e-9
"""‖Hv‖ below this share of the mean eigenvalue is zero: a shift's true product is rounding, 1e-16 an entry."""


def shift_gauge(objective: Objective, matrix: Float[Tensor, "p p"]) -> Float[Tensor, "g p"] | None:
    """Orthonormal directions N with N H = 0 because softmax ignores a shift common to all classes.

    Candidates are the shifts of each column of a parameter whose leading axis is the classes; each is
    kept only if H really vanishes along it, so a penalised weight is never mistaken for a gauge.
    """
    if objective.loss.kind != "class":
        return None
    classes = objective.trailing[0]
    found = []
    scale = float(matrix.diagonal().abs().mean())
    for where, shape in zip(objective.space.slices().values(), objective.space.shapes, strict=True):
        if not shape or shape[0] != classes:
            continue
        width = (where.stop - where.start) // classes
        shifts = matrix.new_zeros(width, matrix.shape[0])
        shifts[:, where] = torch.eye(width, dtype=matrix.dtype, device=matrix.device).repeat(1, classes) / classes**0.5
        flat = (shifts @ matrix).norm(dim=1) <= TOLERANCE * scale
        found.append(shifts[flat])
    directions = torch.cat(found) if found else matrix.new_zeros(0, matrix.shape[0])
    return directions if len(directions) else None
