"""A symmetric matrix in an eigenbasis of its own, and rows turned into it: what every function of the matrix shares."""

from __future__ import annotations

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError
from upweight.linop import Damped, Dense, Diagonal, Identity, Kronecker, KroneckerEigen, LinearOperator
from upweight.solve.inverse import eigen
from upweight.solve.low_rank import check_finite


def in_eigenbasis(operator: LinearOperator) -> KroneckerEigen | Diagonal:
    """The same matrix in an eigenbasis of its own.

    Raises:
        ConfigError: the eigenbasis is not known, or A is not symmetric.
    """
    match operator:
        case KroneckerEigen() | Diagonal():
            return operator
        case Damped():
            basis = in_eigenbasis(operator.base)
            return with_eigenvalues(basis, eigenvalues(basis) + operator.damping)
        case Kronecker():
            return eigen(operator)
        case Identity():
            return Diagonal(torch.ones(operator.width, dtype=torch.float64))
        case Dense(is_symmetric=True):
            check_finite("a filter", operator.matrix)
            return _dense(operator.matrix.double())
    raise ConfigError(
        f"a filter found a {type(operator).__name__}, symmetric: {operator.symmetric}. Expected a symmetric matrix "
        "with an eigenbasis: Kronecker, diagonal, identity, dense or blocks of these; write it out as "
        "Dense(operator.dense(), is_symmetric=True), or use lanczos()."
    )


def eigenvalues(basis: KroneckerEigen | Diagonal) -> Tensor:
    """Λ, in the shape the basis keeps it in."""
    return basis.values if isinstance(basis, KroneckerEigen) else basis.entries


def with_eigenvalues(basis: KroneckerEigen | Diagonal, values: Tensor) -> KroneckerEigen | Diagonal:
    """The matrix with the same eigenvectors and other eigenvalues."""
    if isinstance(basis, KroneckerEigen):
        return KroneckerEigen(basis.left, basis.right, values)
    return Diagonal(values)


def turned(basis: KroneckerEigen | Diagonal, rows: Float[Tensor, "k q"]) -> Float[Tensor, "k q"]:
    """Rows in the eigenbasis, VQ, in the basis's own floating-point type: V f(A) Uᵀ is then Σ (VQ) f(Λ) (UQ)."""
    rows = rows.to(eigenvalues(basis).dtype)
    if isinstance(basis, Diagonal):
        return rows
    matrices = rows.view(len(rows), *basis.values.shape)
    return (basis.left.T @ (matrices @ basis.right)).flatten(1)


def _dense(matrix: Float[Tensor, "p p"]) -> KroneckerEigen:
    """Q Λ Qᵀ as a Kronecker product with a 1 × 1 left factor; eigenvalues within rounding of zero are zero."""
    values, vectors = torch.linalg.eigh(matrix)
    rounding = len(values) * torch.finfo(values.dtype).eps * float(values.abs().max())
    values = torch.where(values.abs() <= rounding, 0.0, values)
    return KroneckerEigen(torch.ones(1, 1, dtype=values.dtype), vectors, values.unsqueeze(0))
