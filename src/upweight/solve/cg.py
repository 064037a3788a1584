"""Block conjugate gradients: every row at once, from one Krylov space they all share.

Each step adds the preconditioned residuals of all rows to a basis Q, multiplies it once by A, and
takes the Galerkin answer in the whole space, X = V Qᵀ(QAQᵀ)⁻¹Q, which is the conjugate-gradient
iterate with nothing forgotten. Products run in the operator's own precision; the answer is then
refined by exact products in float64 until its true residual meets the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from upweight._typing import Float, Tensor
from upweight.errors import NotConverged
from upweight.linop import LinearOperator
from upweight.solve.direct import Inverse, off_gauge
from upweight.solve.verdict import Solution, Verdict

TOLERANCE = 1e-7
"""Relative residual, row by row, in float64: errors in scores are of this size times the condition met."""

FLOOR = 3e-6
"""What float32 products can reach in one round; the next round starts from a float64 residual."""

DEPENDENT = 1e-4
"""A direction with less than this left after orthogonalisation is rounding, not news."""

UNASKED = Verdict("block conjugate gradients")
"""The verdict before any row has been solved for."""

TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class BlockCG(Inverse):
    """A⁻¹ of a symmetric positive definite operator known by its products.

    Args:
        fast: A in working precision, used for every step.
        exact: A in float64, used for the residual that is believed.
        precondition: V ↦ V M⁻¹ in working precision, M ≈ A.
        gauge: orthonormal rows along which A vanishes; the answer has no part along them.
        steps: the most steps taken before giving up.

    Error and cost:
        The relative residual of every row is at most ``tolerance``, measured with ``exact``; each step
        is one product of k rows, each refinement one exact product. The basis holds steps·k rows of p.
    """

    fast: LinearOperator
    exact: LinearOperator
    precondition: Callable[[Tensor], Tensor]
    gauge: Float[Tensor, "g p"] | None = None
    steps: int = 200
    tolerance: float = TOLERANCE
    verdict: Verdict = UNASKED

    @property
    def size(self) -> int:
        return self.fast.size

    @property
    def symmetric(self) -> bool:
        return True

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return self.after(torch.eye(self.size, dtype=torch.float64))

    def after(self, rows: Tensor) -> Tensor:
        return self.solve(rows).rows

    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        """V A⁻¹, with the steps taken and the largest relative residual of these rows.

        Raises:
            NotConverged: the steps ran out above the tolerance.
        """
        rows = off_gauge(rows.double(), self.gauge)
        scale = rows.norm(dim=1, keepdim=True).clamp_min(TINY)
        wanted = rows / scale
        krylov = _Krylov(self.fast, self._preconditioned)
        answer, left, taken, residual = torch.zeros_like(wanted), wanted, 0, torch.inf
        while residual > self.tolerance:
            correction, used = krylov.solve(left, self.tolerance, self.steps - taken)
            answer, taken = answer + correction, taken + used
            left = off_gauge(wanted - self.exact.after(answer), self.gauge)
            before, residual = residual, float(left.norm(dim=1).max())
            stuck = taken >= self.steps or (not used and residual > before / 2)
            if residual > self.tolerance and stuck:
                raise NotConverged(
                    f"block conjugate gradients stopped after {taken} steps at a relative residual of {residual:.2g}. "
                    f"Expected {self.tolerance:.0e}; add damping, or use solver='cholesky'."
                )
        return Solution(answer * scale, replace(self.verdict, residual=residual, iterations=taken))

    def _preconditioned(self, rows: Tensor) -> Tensor:
        return off_gauge(self.precondition(rows), self.gauge)


class _Krylov:
    """The growing space: orthonormal rows Q, their products QA, and the Gram matrix QAQᵀ."""

    def __init__(self, operator: LinearOperator, precondition: Callable[[Tensor], Tensor]) -> None:
        self.operator, self.precondition = operator, precondition
        self.basis: Tensor | None = None
        self.products: Tensor | None = None
        self.gram: Tensor | None = None

    def solve(self, wanted: Float[Tensor, "k p"], tolerance: float, steps: int) -> tuple[Tensor, int]:
        """The Galerkin answer in a space grown until the working-precision residual is small enough."""
        goal = max(tolerance, FLOOR * float(wanted.norm(dim=1).max()))
        left, answer, used = wanted, torch.zeros_like(wanted), 0
        while True:
            if self.basis is not None:
                answer, left = self._project(wanted)
                if float(left.norm(dim=1).max()) <= goal:
                    return answer, used
            if used >= steps or not self._extend(left):
                return answer, used
            used += 1

    def _project(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        assert self.basis is not None and self.products is not None and self.gram is not None
        dtype = self.basis.dtype
        onto = (wanted.to(dtype) @ self.basis.T).double()
        factor, info = torch.linalg.cholesky_ex(self.gram)
        solved = torch.linalg.solve(self.gram, onto.T) if int(info) else torch.cholesky_solve(onto.T, factor)
        coefficients = solved.T.to(dtype)  # (k, q)
        return (coefficients @ self.basis).double(), wanted - (coefficients @ self.products).double()

    def _extend(self, left: Tensor) -> bool:
        """Add the preconditioned residuals; False when they bring no new direction."""
        room = self.operator.size - (0 if self.basis is None else len(self.basis))
        fresh = self.precondition(left / left.norm(dim=1, keepdim=True).clamp_min(TINY))
        fresh = _orthonormal(fresh, self.basis)[:room]
        if not len(fresh):
            return False
        products = self.operator.after(fresh)
        corner = (products @ fresh.T).double()
        corner = (corner + corner.T) / 2
        if self.basis is None or self.products is None or self.gram is None:
            self.basis, self.products, self.gram = fresh, products, corner
            return True
        side = (products @ self.basis.T).double()  # (k, q)
        self.gram = torch.cat([torch.cat([self.gram, side.T], 1), torch.cat([side, corner], 1)])
        self.basis, self.products = torch.cat([self.basis, fresh]), torch.cat([self.products, products])
        return True


def _orthonormal(rows: Float[Tensor, "k p"], basis: Float[Tensor, "q p"] | None) -> Float[Tensor, "j p"]:
    """Rows made orthonormal to a basis and to each other; those that vanish are left out."""
    for _ in range(2):
        if basis is not None:
            rows = rows - (rows @ basis.T) @ basis
        values, vectors = torch.linalg.eigh((rows @ rows.T).double())
        kept = values > DEPENDENT**2 * values[-1].clamp_min(TINY)
        rows = (vectors[:, kept] / values[kept].sqrt()).T.to(rows.dtype) @ rows
        if not len(rows):
            break
    return rows
