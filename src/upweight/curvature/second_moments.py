"""The second moment of rows at hand, one block a stretch of columns: the curvature of compressed gradients."""

from __future__ import annotations

from collections.abc import Sequence

from upweight._typing import Float, Tensor
from upweight.linop import BlockDiagonal, Dense
from upweight.space import FlatLayout


def second_moments(
    rows: Float[Tensor, "n r"], weights: Float[Tensor, "n"], columns: Sequence[slice] | None = None
) -> BlockDiagonal:
    """Σ wᵢvᵢvᵢᵀ of rows v, in float64.

    Args:
        columns: stretches that are uncoupled, such as those of a projection's layers; one for all by default.
    """
    width, parts = rows.shape[1], []
    for where in columns or [slice(0, width)]:
        own = rows[:, where].double()
        parts.append((FlatLayout(width, where), Dense(own.T @ (own * weights.double()[:, None]), is_symmetric=True)))
    return BlockDiagonal(width, tuple(parts))
