"""A ↦ A⁻¹: which rule inverts which matrix, on one page.

symmetric dense        Cholesky (positive definite or a named error)
any other dense        LU
diagonal               entrywise
symmetric, products    block conjugate gradients (`upweight.solve.cg`)
"""

from __future__ import annotations

from dataclasses import dataclass

from upweight._typing import Float, Tensor
from upweight.errors import IndefiniteCurvature
from upweight.linop import Damped, Diagonal, LinearOperator
from upweight.solve.direct import Inverse, cholesky, lu
from upweight.solve.verdict import Verdict


def inverse(operator: LinearOperator, gauge: Float[Tensor, "g p"] | None = None) -> Inverse:
    """A⁻¹ as an operator that carries a verdict; on the complement of the gauge where one is given.

    Args:
        operator: the matrix A, damping included as a node: ``uw.inverse(H.damped(1e-3))``.
        gauge: orthonormal rows along which A vanishes and the answer is not asked for.

    Raises:
        IndefiniteCurvature: A is symmetric and not positive definite, or A is singular.

    Example:
        >>> import torch, upweight as uw
        >>> A = uw.linop.Dense(torch.tensor([[2.0, 1.0], [0.0, 4.0]], dtype=torch.float64))
        >>> (torch.tensor([[2.0, 9.0]], dtype=torch.float64) @ uw.inverse(A)).tolist()
        [[1.0, 2.0]]
    """
    damping = operator.damping if isinstance(operator, Damped) else 0.0
    base = operator.base if isinstance(operator, Damped) else operator
    if isinstance(base, Diagonal):
        return _diagonal(base.entries + damping, damping)
    matrix = operator.dense().double()
    return cholesky(matrix, gauge, damping) if operator.symmetric else lu(matrix, damping)


@dataclass(frozen=True)
class DiagonalInverse(Inverse):
    """1/dⱼ for every coordinate."""

    entries: Float[Tensor, "p"]
    verdict: Verdict

    @property
    def size(self) -> int:
        return self.entries.shape[0]

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        return rows * self.entries

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return self.entries.diag()


def _diagonal(entries: Tensor, damping: float) -> DiagonalInverse:
    if not bool((entries > 0).all()):
        raise IndefiniteCurvature(
            f"the diagonal curvature has an entry of {float(entries.min()):.3g}. Expected every entry above zero; add damping."
        )
    return DiagonalInverse(1 / entries, Verdict("entrywise division", 0.0, damping=damping))
