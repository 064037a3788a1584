"""The inverse of a matrix known on r directions: V ↦ V Uᵀ(Λ + λ)⁻¹U + t (V − V UᵀU).

U holds r orthonormal rows. t is what the inverse does with everything outside them: 1/λ where the rest of A
is taken as zero and damped, 0 where the rest is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, NumericalError
from upweight.linop import LinearOperator
from upweight.solve.direct import Inverse
from upweight.solve.verdict import Solution, Verdict, relative_residual

PROBES = 8
"""Rows of random signs that estimate the trace outside the basis; the share it enters is read to two digits."""

POOR = 0.1
"""Relative residual above which a low-rank answer is called unconverged: scores are then off by tens of percent."""


@dataclass(frozen=True)
class LowRankInverse(Inverse):
    """(Uᵀ Λ U + λI)⁻¹, or its part in the span of U.

    Args:
        basis: U.
        values: Λ + λ, above zero.
        tail: t, the inverse outside the span.
        operator: A + λI, by whose products the residual of every solve is measured.

    Error and cost:
        The residual is of the low-rank answer against the true A + λI: it says how much was left out. With t = 1/λ it
        is about the largest eigenvalue left out over λ, so λ should be no smaller than that. A product
        is 4·r·p operations a row; ``solve`` adds one product of the operator.
    """

    basis: Float[Tensor, "r p"]
    values: Float[Tensor, "r"]
    tail: float
    operator: LinearOperator
    verdict: Verdict

    @property
    def size(self) -> int:
        return self.basis.shape[1]

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.basis.dtype)
        inside = rows @ self.basis.T  # (k, r)
        found = (inside / self.values - self.tail * inside) @ self.basis
        return found + self.tail * rows if self.tail else found

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return self.after(torch.eye(self.size, dtype=self.basis.dtype))

    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        """V A⁻¹ with the largest relative residual of these rows; above ``POOR`` the verdict calls it unconverged."""
        found = self.after(rows)
        residual = relative_residual(rows, found, self.operator)
        return Solution(found, replace(self.verdict, residual=residual, converged=residual <= POOR))


def with_trace(
    verdict: Verdict, operator: LinearOperator, basis: Float[Tensor, "r p"], kept: float, seed: int
) -> Verdict:
    """The verdict with the share of the trace kept and λ in mean eigenvalues.

        tr A = tr UAUᵀ + tr A on the complement of U, the second by random signs (Meyer et al. 2021)

    Args:
        kept: tr UAUᵀ, or the sum of the eigenvalues kept.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (PROBES, operator.size), generator=generator, dtype=torch.float64) * 2 - 1
    outside = signs - (signs @ basis.T) @ basis
    trace = kept + float((operator.after(outside).double() * outside).sum()) / PROBES
    if not trace > 0:
        return verdict
    method = f"{verdict.method}, about {min(kept / trace, 1.0):.0%} of the trace"
    return replace(verdict, method=method, damping_share=verdict.damping * operator.size / trace)


def check_request(name: str, operator: LinearOperator, rank: int, damping: float) -> None:
    """A symmetric matrix, a rank it can have, and a damping that is not negative.

    Raises:
        ConfigError: one of these does not hold.
    """
    if not operator.symmetric:
        raise ConfigError(
            f"{name} found a {type(operator).__name__} that is not known to be symmetric. Expected a symmetric matrix; "
            "declare it, as in Dense(matrix, is_symmetric=True), or use inverse()."
        )
    if not 1 <= rank <= operator.size:
        raise ConfigError(
            f"{name} found rank={rank} for a matrix of size {operator.size}. "
            f"Expected 1 to {operator.size}; choose a rank in between."
        )
    if not 0 <= damping < float("inf"):
        raise ConfigError(f"{name} found damping={damping}. Expected zero or more; pass a number such as 1e-3.")


def check_finite(name: str, found: Tensor) -> None:
    """No NaN and no infinity in what a matrix is made of, or in its products.

    Raises:
        NumericalError: there is.
    """
    wrong = int((~torch.isfinite(found)).sum())
    if wrong:
        raise NumericalError(
            f"{name} found {wrong} of {found.numel()} numbers of the curvature that are not finite. Expected all of them "
            "finite; look for them in the data, the parameters and the loss."
        )
