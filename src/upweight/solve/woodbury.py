"""The exact inverse of D + RᵀR: a matrix with a cheap inverse and r rows beside it.

    V(D + RᵀR)⁻¹ = VD⁻¹ − (V D⁻¹Rᵀ)(I + R D⁻¹Rᵀ)⁻¹ R D⁻¹     (Woodbury 1950)

D is a diagonal, Kronecker or block-diagonal curvature; R, r rows of length p, is read tile by tile and never held
whole. What is factored is r × r.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from upweight._typing import Float, Tensor
from upweight.errors import BudgetError, ConfigError, IndefiniteCurvature, ShapeError
from upweight.linop import LinearOperator
from upweight.solve.direct import Inverse
from upweight.solve.inverse import inverse
from upweight.solve.low_rank import check_finite
from upweight.solve.verdict import Solution, Verdict, relative_residual
from upweight.tiles import Rows

LIMIT = 2**30
"""Bytes that the r × r Gram matrix and its factor may take: r up to 8192."""


@dataclass(frozen=True)
class Updated(LinearOperator):
    """D + RᵀR for symmetric D, by its products."""

    matrix: LinearOperator
    rows: Rows

    @property
    def size(self) -> int:
        return self.matrix.size

    @property
    def symmetric(self) -> bool:
        return self.matrix.symmetric

    def after(self, rows: Tensor) -> Tensor:
        rows = rows.double()
        return self.matrix.after(rows).double() + pull(self.rows, push(self.rows, rows))

    def transpose(self) -> LinearOperator:
        return Updated(self.matrix.T, self.rows)

    def dense(self) -> Tensor:
        return self.after(torch.eye(self.size, dtype=torch.float64))


@dataclass(frozen=True)
class WoodburyInverse(Inverse):
    """(D + RᵀR)⁻¹.

    Args:
        base: D⁻¹.
        rows: R.
        factor: lower Cholesky factor of I + R D⁻¹Rᵀ.
        operator: D + RᵀR, by whose products the residual of every solve is measured.
    """

    base: LinearOperator
    rows: Rows
    factor: Float[Tensor, "r r"]
    operator: LinearOperator
    verdict: Verdict

    @property
    def size(self) -> int:
        return self.base.size

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        first = self.base.after(rows.double()).double()  # (k, p)
        inner = torch.cholesky_solve(push(self.rows, first).T, self.factor).T  # (k, r)
        return first - self.base.after(pull(self.rows, inner)).double()

    def transpose(self) -> LinearOperator:
        return self

    @cached_property
    def dense_inverse(self) -> Float[Tensor, "p p"]:
        """The inverse written out once."""
        return self.after(torch.eye(self.size, dtype=torch.float64))

    def dense(self) -> Tensor:
        return self.dense_inverse

    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        """V A⁻¹ with the largest relative residual of these rows."""
        found = self.after(rows)
        return Solution(found, replace(self.verdict, residual=relative_residual(rows, found, self.operator)))


def woodbury(
    matrix: LinearOperator, rows: Rows, base: LinearOperator | None = None, limit: int = LIMIT
) -> WoodburyInverse:
    """(D + RᵀR)⁻¹ through an r × r system.

    Args:
        matrix: D, symmetric positive definite, damping included.
        rows: R; weights belong in its rows, as in √wᵢ gᵢ.
        base: D⁻¹; None is ``inverse(matrix)``.
        limit: bytes that the r × r matrix and its factor may take.

    Raises:
        ConfigError: D is not known to be symmetric.
        ShapeError: D and R have different p, or R has no row.
        BudgetError: r × r does not fit.
        NumericalError: D or R is not finite.
        IndefiniteCurvature: D is not positive definite.

    Error and cost:
        Exact up to rounding in float64. One pass over the tiles for every tile, r²·p + r³/3 operations and 16·r² bytes
        to build; two passes a product, three with the residual.
    """
    if not matrix.symmetric:
        raise ConfigError(
            f"woodbury found a {type(matrix).__name__} that is not known to be symmetric. Expected a symmetric matrix; "
            "declare it, as in Dense(matrix, is_symmetric=True)."
        )
    if matrix.size != rows.size or not rows.count:
        raise ShapeError(
            f"woodbury found a matrix of size {matrix.size} and {rows.count} rows of length {rows.size}. Expected one row "
            "or more of the matrix's size; take both over the same parameters, and the matrix alone where there is no row."
        )
    needed = 2 * 8 * rows.count**2
    if needed > limit:
        raise BudgetError(
            f"woodbury on {rows.count} rows needs {needed:,} bytes. Expected {limit:,} at most; raise limit, take fewer "
            "rows, or use block conjugate gradients."
        )
    inverted = inverse(matrix) if base is None else base
    verdict = inverted.verdict if isinstance(inverted, Inverse) else Verdict("")
    verdict = Verdict(f"Woodbury on {rows.count} rows", damping=verdict.damping, damping_share=verdict.damping_share)
    return WoodburyInverse(inverted, rows, _factor(inverted, rows), Updated(matrix, rows), verdict)


def push(rows: Rows, vectors: Float[Tensor, "k p"]) -> Float[Tensor, "k r"]:
    """V ↦ V Rᵀ."""
    return vectors @ rows.T


def pull(rows: Rows, weights: Float[Tensor, "k r"]) -> Float[Tensor, "k p"]:
    """C ↦ C R, one tile at a time."""
    found, start = weights.new_zeros(len(weights), rows.size), 0
    for block in rows.tiles():
        found += weights[:, start : start + len(block)] @ block.dense().to(weights.dtype)
        start += len(block)
    return found


def _factor(base: LinearOperator, rows: Rows) -> Float[Tensor, "r r"]:
    """The Cholesky factor of I + R D⁻¹Rᵀ, a strip of it from every tile."""
    strips = [push(rows, base.after(block.dense().double()).double()) for block in rows.tiles()]
    gram = torch.cat(strips)
    check_finite("woodbury", gram)
    gram = (gram + gram.T) / 2
    gram.diagonal().add_(1.0)
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info):
        lowest = float(torch.linalg.eigvalsh(gram)[0])
        raise IndefiniteCurvature(
            f"I + R D⁻¹Rᵀ has an eigenvalue of {lowest:.3g}. Expected all of them at 1 or above, so D is not positive "
            "definite; add damping to it."
        )
    return factor
