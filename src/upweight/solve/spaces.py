"""The spaces block conjugate gradients look for the answer in: every direction kept, or the last ones only.

    kept        X = V Qᵀ(QAQᵀ)⁻¹Q over all directions Q so far: nothing is forgotten, and rounding does not add up
    recurrence  P = orth(Z − (Z A Pᵀ)(P A Pᵀ)⁻¹P), X += R Pᵀ(P A Pᵀ)⁻¹P, Z the preconditioned residuals: five blocks of k rows

They agree in exact arithmetic. Directions are made orthonormal by a rank-revealing factorisation, so that rows
that have converged, or that depend on each other, break nothing down.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from upweight._typing import Float, Tensor
from upweight.linop import LinearOperator

FLOOR = 3e-6
"""What float32 products can reach in one round; the next round starts from a float64 residual."""

DEPENDENT = 1e-4
"""A direction with less than this left after orthogonalisation is rounding, not news."""

TINY = torch.finfo(torch.float64).tiny


class Space(ABC):
    """A Krylov space of an operator, in its working precision."""

    def __init__(self, operator: LinearOperator, precondition: Callable[[Tensor], Tensor]) -> None:
        self.operator, self.precondition = operator, precondition

    @abstractmethod
    def solve(self, wanted: Float[Tensor, "k p"], tolerance: float, steps: int) -> tuple[Tensor, int]:
        """An answer whose working-precision residual is small enough, and the steps it took."""

    def fresh(self, left: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """The preconditioned residuals, each of unit length before."""
        return self.precondition(left / left.norm(dim=1, keepdim=True).clamp_min(TINY))


class Recurrence(Space):
    """The last block of directions only: memory does not grow with the steps."""

    def solve(self, wanted: Float[Tensor, "k p"], tolerance: float, steps: int) -> tuple[Tensor, int]:
        goal = max(tolerance, FLOOR * float(wanted.norm(dim=1).max()))
        left: Tensor = wanted
        answer: Tensor = torch.zeros_like(wanted)
        last: tuple[Tensor, Tensor, Tensor] | None = None
        used = 0
        while used < steps and float(left.norm(dim=1).max()) > goal:
            fresh = self.fresh(left)
            if last is not None:
                directions, products, factor = last
                along = torch.cholesky_solve((fresh @ products.T).double().T, factor)  # (q, k)
                fresh = fresh - along.T.to(fresh.dtype) @ directions
            directions = orthonormal(fresh, None)
            if not len(directions):
                break
            products = self.operator.after(directions)
            factor = _factor(products @ directions.T)
            if factor is None:
                break
            along = torch.cholesky_solve((directions @ left.to(directions.dtype).T).double(), factor)
            steps_taken = along.T.to(directions.dtype)
            answer, left = answer + steps_taken @ directions, left - steps_taken @ products
            last, used = (directions, products, factor), used + 1
        return answer, used


class Kept(Space):
    """The growing space: orthonormal rows Q, their products QA, and the Gram matrix QAQᵀ."""

    basis: Tensor | None = None
    products: Tensor | None = None
    gram: Tensor | None = None

    def solve(self, wanted: Float[Tensor, "k p"], tolerance: float, steps: int) -> tuple[Tensor, int]:
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
        fresh = orthonormal(self.fresh(left), self.basis)[:room]
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


def orthonormal(rows: Float[Tensor, "k p"], basis: Float[Tensor, "q p"] | None) -> Float[Tensor, "j p"]:
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


def _factor(gram: Float[Tensor, "q q"]) -> Float[Tensor, "q q"] | None:
    """The Cholesky factor of a Gram matrix in float64; None where it is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(((gram + gram.T) / 2).double())
    return None if int(info) else factor
