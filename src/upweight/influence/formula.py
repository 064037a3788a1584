"""effect = −T H⁻¹ Cᵀ: measurement rows, inverse curvature, change rows."""

from __future__ import annotations

from upweight._typing import Float, Tensor
from upweight.linop import LinearOperator
from upweight.tiles import Rows


def effect(measurements: Tensor | Rows, inverse: LinearOperator, changes: Tensor | Rows) -> Float[Tensor, "m k"]:
    """The first-order change of m measurements under k changes of the training set.

        effect = −T H⁻¹ Cᵀ    [KL17 A8-A10, eq. 2]

    With change rows ∇ℓᵢ and T = ∇φ this is I_up,φ; with T the identity, I_up,params transposed.

    Args:
        measurements: T (m, p), gradients of the measurements.
        inverse: H⁻¹, from ``uw.inverse``; H need not be symmetric.
        changes: C (k, p), derivatives of the estimating equation along each change.

    Returns:
        (m, k), in the unit of the measurement per unit of change; positive means it rises.

    Error and cost:
        First order. Solves on the shorter side: min(m, k) solves, then one product.
    """
    if changes.shape[0] < measurements.shape[0] and isinstance(changes, Tensor):
        right = changes @ inverse.T  # (k, p) = (H⁻¹ Cᵀ)ᵀ
        return -(right @ measurements.T).T
    return -((measurements @ inverse) @ changes.T)
