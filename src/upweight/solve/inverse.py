"""A ↦ A⁻¹: which rule inverts which matrix, on one page.

block diagonal            block by block
Kronecker in eigenbasis   entrywise in the basis: Q (Λ + λ)⁻¹ Qᵀ
Kronecker                 its eigenbasis first
diagonal, identity        entrywise
symmetric dense           Cholesky (positive definite or a named error)
any other dense           LU
known by products         written out first; for solvers that only multiply see the other files of this room
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, IndefiniteCurvature, NonFiniteInput
from upweight.linop import (
    BlockDiagonal,
    Damped,
    Diagonal,
    Identity,
    Kronecker,
    KroneckerEigen,
    LinearOperator,
    Scaled,
)
from upweight.solve.direct import STRIP, Inverse, cholesky, lu
from upweight.solve.verdict import Verdict, in_units


def inverse(operator: LinearOperator, gauge: Float[Tensor, "g p"] | None = None) -> Inverse:
    """A⁻¹ as an operator that carries a verdict; on the complement of the gauge where one is given.

    Args:
        operator: the matrix A, damping included as a node: ``uw.inverse(H.damped(1e-3))``.
        gauge: orthonormal rows along which A vanishes and the answer is not asked for.

    Raises:
        IndefiniteCurvature: A is symmetric and not positive definite, or A is singular.
        ConfigError: A is no operator.

    Example:
        >>> import torch, upweight as uw
        >>> A = uw.linop.Dense(torch.tensor([[2.0, 1.0], [0.0, 4.0]], dtype=torch.float64))
        >>> (torch.tensor([[2.0, 9.0]], dtype=torch.float64) @ uw.inverse(A)).tolist()
        [[1.0, 2.0]]
    """
    if not isinstance(operator, LinearOperator):
        raise ConfigError(
            f"inverse found a {type(operator).__name__}. Expected a linear operator; wrap a matrix as uw.linop.Dense(torch.as_tensor(matrix))."
        )
    damping = operator.damping if isinstance(operator, Damped) else 0.0
    base = operator.base if isinstance(operator, Damped) else operator
    if isinstance(base, BlockDiagonal):
        whole = base.damped(damping) if damping else base
        assert isinstance(whole, BlockDiagonal)
        return _blockwise(whole)
    if isinstance(base, Kronecker):
        base = eigen(base)
    if isinstance(base, KroneckerEigen):
        inverted = KroneckerEigen(base.left, base.right, _reciprocal(base.values + damping))
        return Inverted(inverted, _verdict("eigenvalues of a Kronecker basis", base.values, damping))
    if isinstance(base, Diagonal):
        return Inverted(
            Diagonal(_reciprocal(base.entries + damping)), _verdict("entrywise division", base.entries, damping)
        )
    if isinstance(base, Identity):
        share = Verdict("the identity", 0.0, damping=damping, damping_share=damping)
        return Inverted(Scaled(base, 1 / (1 + damping)), share)
    matrix = operator.dense().double()
    _require_finite(matrix)
    if operator.symmetric:
        _require_symmetric(matrix)
    return cholesky(matrix, gauge, damping) if operator.symmetric else lu(matrix, damping)


@dataclass(frozen=True)
class Inverted(Inverse):
    """An inverse that is itself a matrix of a known kind."""

    operator: LinearOperator
    verdict: Verdict

    @property
    def size(self) -> int:
        return self.operator.size

    @property
    def symmetric(self) -> bool:
        return self.operator.symmetric

    def after(self, rows: Tensor) -> Tensor:
        return self.operator.after(rows)

    def transpose(self) -> LinearOperator:
        return Inverted(self.operator.T, self.verdict)

    def dense(self) -> Tensor:
        return self.operator.dense()


def eigen(product: Kronecker) -> KroneckerEigen:
    """A Kronecker product in the eigenbasis of its factors; factored in float64."""
    left, right = torch.linalg.eigh(product.left.double()), torch.linalg.eigh(product.right.double())
    dtype = product.left.dtype
    values = _not_negative(left.eigenvalues, dtype)[:, None] * _not_negative(right.eigenvalues, dtype)[None, :]
    return KroneckerEigen(left.eigenvectors.to(dtype), right.eigenvectors.to(dtype), values.to(dtype))


def _not_negative(values: Float[Tensor, "k"], dtype: torch.dtype) -> Float[Tensor, "k"]:
    """Eigenvalues of a second moment, rounding below zero taken off."""
    least, largest = float(values.min()), float(values.abs().max())
    if least < -ROUNDING * torch.finfo(dtype).eps * largest * len(values):
        raise IndefiniteCurvature(
            f"a factor of a Kronecker product has an eigenvalue of {least:.3g} (its largest is {largest:.3g}). Expected second moments, whose eigenvalues are zero or more; invert the product as uw.linop.Dense(product.dense())."
        )
    return values.clamp_min(0)


ROUNDING = 100.0
"""Units of rounding, per row, that an eigenvalue of a sum of squares may lie below zero."""


def _require_finite(matrix: Float[Tensor, "p p"]) -> None:
    if not bool(torch.isfinite(matrix.sum())) and not bool(torch.isfinite(matrix).all()):
        raise NonFiniteInput(
            f"the curvature matrix of size {len(matrix)} holds NaN or infinity. Expected finite entries; look at the model's outputs and derivatives where it was formed."
        )


def _require_symmetric(matrix: Float[Tensor, "p p"]) -> None:
    """A matrix that says it is symmetric is held to it."""
    scale = float(matrix.abs().max())
    gap = max(
        float((part - other).abs().max())
        for part, other in zip(matrix.split(STRIP), matrix.T.split(STRIP), strict=True)
    )
    if gap > ASYMMETRY * scale:
        raise ConfigError(
            f"a matrix declared symmetric differs from its transpose by up to {gap:.2g} (its largest entry is {scale:.2g}). Expected a symmetric matrix; declare it as what it is, Dense(matrix), or mend how it was formed."
        )


ASYMMETRY = 1e-6
"""Largest difference from the transpose, in units of the largest entry, that rounding explains."""


def _blockwise(operator: BlockDiagonal) -> Inverse:
    found = [(layout, inverse(block)) for layout, block in operator.parts]
    shares = [share for _, block in found if (share := block.verdict.damping_share) < float("inf")]
    dampings = [block.verdict.damping for _, block in found]
    verdict = Verdict(
        f"{len(found)} blocks",
        residual=max((block.verdict.residual or 0.0 for _, block in found), default=0.0),
        damping=max(dampings, default=0.0),
        damping_share=sum(shares) / max(1, len(shares)),
        by_block=len(set(dampings)) > 1,
    )
    parts = tuple((layout, block.operator if isinstance(block, Inverted) else block) for layout, block in found)
    return Inverted(BlockDiagonal(operator.width, parts), verdict)


def _verdict(method: str, values: Tensor, damping: float) -> Verdict:
    return Verdict(method, 0.0, damping=damping, damping_share=in_units(damping, float(values.mean())))


def _reciprocal(values: Tensor) -> Tensor:
    """1/Λ of values that must all be above zero."""
    if not bool((values > 0).all()):
        raise IndefiniteCurvature(
            f"the curvature has an eigenvalue of {float(values.min()):.3g}. Expected every one above zero; add damping."
        )
    return 1 / values
