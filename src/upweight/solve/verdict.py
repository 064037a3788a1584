"""What came back from a solve: how, how well, and whether to believe it."""

from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ApproximationWarning, warn
from upweight.linop import LinearOperator


@dataclass(frozen=True)
class Verdict:
    """How an inverse was obtained and how far it can be trusted.

    Attributes:
        method: the name of the road, in words.
        residual: ‖vA⁻¹A − v‖/‖v‖, measured; None before an iteration has been asked for anything.
        iterations: steps taken, 0 for direct methods.
        condition: ‖A‖₁‖A⁻¹‖₁ of A scaled to a unit diagonal, where it was estimated.
        damping: λ added to the matrix, in its own units.
        damping_share: λ in units of the mean eigenvalue.
        gauge: directions that cannot change any output and were projected out.
        by_block: every block has its own λ, of which ``damping`` is the largest.
        converged: False where the residual is above what the solver calls an answer.
    """

    method: str
    residual: float | None = None
    iterations: int = 0
    condition: float | None = None
    damping: float = 0.0
    damping_share: float = 0.0
    gauge: int = 0
    converged: bool = True
    by_block: bool = False

    def warn(self) -> None:
        """Say aloud that an answer is unconverged; nothing otherwise."""
        if not self.converged:
            warn(
                f"the solver stopped at a relative residual of {self.residual:.2g} ({self.method}). Expected a converged answer: take more steps, a higher rank or more damping, or solver='block_cg'.",
                ApproximationWarning,
            )

    def __str__(self) -> str:
        parts = [f"solved by {self.method}"]
        if self.residual is not None:
            parts.append(f"residual {self.residual:.1e}{'' if self.converged else ', unconverged'}")
        if self.iterations:
            parts.append(f"{self.iterations} iterations")
        if self.condition is not None:
            parts.append(f"condition number {self.condition:.1e}")
        if self.damping:
            upto, whose = ("up to ", "each block's") if self.by_block else ("", "the")
            parts.append(f"damping {upto}{self.damping:.3g} ({self.damping_share:.2g} of {whose} mean eigenvalue)")
        if self.gauge:
            parts.append(f"{self.gauge} gauge direction{'s' * (self.gauge > 1)} projected out")
        return "; ".join(parts)


def in_units(damping: float, mean: float) -> float:
    """λ in units of the mean eigenvalue; infinite where there is no curvature but λ."""
    if not damping:
        return 0.0
    return damping / mean if mean > 0 else float("inf")


@dataclass(frozen=True)
class Solution:
    """Rows V A⁻¹, and how they were obtained."""

    rows: Float[Tensor, "k p"]
    verdict: Verdict


def relative_residual(rows: Float[Tensor, "k p"], answer: Float[Tensor, "k p"], operator: LinearOperator) -> float:
    """‖xA − v‖/‖v‖ of an answer x to rows v, the largest over rows: one product in float64."""
    left = operator.after(answer.double()).double() - rows.double()
    lengths = rows.double().norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    return float((left.norm(dim=1) / lengths).max()) if len(rows) else 0.0
