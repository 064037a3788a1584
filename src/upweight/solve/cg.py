"""Block conjugate gradients: every row at once, from one Krylov space they all share.

Each step multiplies the preconditioned residuals of all rows by A once and takes the best answer in the
space they span (``spaces``). Products run in the operator's own precision; the answer is then refined by
exact products in float64 until its true residual meets the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from upweight._typing import Float, Tensor
from upweight.errors import NotConverged
from upweight.linop import LinearOperator
from upweight.solve.direct import off_gauge
from upweight.solve.iterated import Iterated
from upweight.solve.spaces import TINY, Kept, Recurrence
from upweight.solve.verdict import Solution, Verdict

TOLERANCE = 1e-7
"""Relative residual, row by row, in float64: errors in scores are of this size times the condition met."""

UNASKED = Verdict("block conjugate gradients")
"""The verdict before any row has been solved for."""


@dataclass(frozen=True)
class BlockCG(Iterated):
    """A⁻¹ of a symmetric positive definite operator known by its products.

    Args:
        fast: A in working precision, used for every step.
        exact: A in float64, used for the residual that is believed.
        precondition: V ↦ V M⁻¹ in working precision, M ≈ A.
        gauge: orthonormal rows along which A vanishes; the answer has no part along them.
        steps: the most steps taken before giving up.
        accept: a residual up to which an answer that stopped above the tolerance is returned, called unconverged; 0 raises.
        keep: keep every direction (steps·k rows of p), or the last block only (five blocks of k rows).

    Error and cost:
        The relative residual of every row is at most ``tolerance``, measured with ``exact``; each step
        is one product of k rows, each refinement one exact product.
    """

    fast: LinearOperator
    exact: LinearOperator
    precondition: Callable[[Tensor], Tensor]
    gauge: Float[Tensor, "g p"] | None = None
    steps: int = 200
    tolerance: float = TOLERANCE
    accept: float = 0.0
    keep: bool = True
    verdict: Verdict = UNASKED

    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        """V A⁻¹, with the steps taken and the largest relative residual of these rows.

        Raises:
            NotConverged: the steps ran out at a residual above both the tolerance and ``accept``; between the two the verdict
                says that the answer is unconverged.
        """
        rows = off_gauge(rows.double(), self.gauge)
        scale = rows.norm(dim=1, keepdim=True).clamp_min(TINY)
        wanted = rows / scale
        krylov = (Kept if self.keep else Recurrence)(self.fast, self._preconditioned)
        answer, left, taken, residual = torch.zeros_like(wanted), wanted, 0, torch.inf
        while residual > self.tolerance:
            correction, used = krylov.solve(left, self.tolerance, self.steps - taken)
            answer, taken = answer + correction, taken + used
            left = off_gauge(wanted - self.exact.after(answer), self.gauge)
            before, residual = residual, float(left.norm(dim=1).max())
            stuck = taken >= self.steps or (not used and residual > before / 2)
            if residual > max(self.tolerance, self.accept) and stuck:
                raise NotConverged(
                    f"block conjugate gradients stopped after {taken} steps at a relative residual of {residual:.2g}. "
                    f"Expected {self.tolerance:.0e}; add damping, allow more steps (uw.Solver('block_cg', steps=…)), or use solver='cholesky'."
                )
            if stuck:
                break
        reached = residual <= self.tolerance
        return Solution(answer * scale, replace(self.verdict, residual=residual, iterations=taken, converged=reached))

    def project(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """Rows without their part along the gauge."""
        return off_gauge(rows, self.gauge)

    def _preconditioned(self, rows: Tensor) -> Tensor:
        return off_gauge(self.precondition(rows), self.gauge)
