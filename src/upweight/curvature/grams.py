"""rowsᵀrows, weighted: symmetric, so that only blocks on and below the diagonal are multiplied."""

from __future__ import annotations

from upweight._typing import Float, Tensor
from upweight.float32_products import fast_float32

WIDE = 256
"""Columns from which halves are multiplied on their own: a quarter of the work is saved, and again in each half."""


@fast_float32()
def add_gram(total: Float[Tensor, "i i"], rows: Float[Tensor, "x i"], scale: float = 1.0) -> None:
    """total += scale · rowsᵀrows, in place."""
    width = rows.shape[1]
    if width < WIDE:
        total.add_(rows.T @ rows, alpha=scale)  # addmm_ would not take the faster kernels
        return
    half = width // 2
    left, right = rows[:, :half], rows[:, half:]
    add_gram(total[:half, :half], left, scale)
    add_gram(total[half:, half:], right, scale)
    corner = right.T @ left
    total[half:, :half].add_(corner, alpha=scale)
    total[:half, half:].add_(corner.T, alpha=scale)


def weighted(values: Float[Tensor, "b ..."], weights: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b ..."], float]:
    """Values and a scale such that scale · values ⊗ values is weighted; equal weights copy nothing."""
    first = float(weights[0])
    if bool((weights == first).all()):
        return values, first
    return values * weights.sqrt().reshape(-1, *[1] * (values.ndim - 1)), 1.0
