"""How far the answers can be believed, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from upweight.fitted import Fitted
from upweight.gradients import Stationarity
from upweight.questions.points import leverage
from upweight.solve import Verdict

HIGH_LEVERAGE = 0.5
"""A point that owns half of its own fit: first order is wrong there by a factor of two."""

ILL_CONDITIONED = 1e10
"""Condition number above which float64 leaves fewer than six digits."""


@dataclass(frozen=True)
class Trust:
    """What a study measured about itself.

    Attributes:
        stationarity: ‖∇Q‖ in units of a typical ‖∇ℓᵢ‖.
        lowest_curvature: smallest eigenvalue of H + λI away from the gauge.
        mean_curvature: mean eigenvalue of H.
        damping_share: damping in units of the mean eigenvalue.
        solver: method, measured residual, condition number, gauge directions.
        mean_leverage, highest_leverage: of the training points; first order misses 1/(1 − leverage).
    """

    stationarity: Stationarity
    lowest_curvature: float
    mean_curvature: float
    damping_share: float
    solver: Verdict
    mean_leverage: float
    highest_leverage: float
    highest_point: object
    notes: tuple[str, ...] = ()

    @property
    def concerns(self) -> list[str]:
        """What a reader should hesitate over; empty when nothing was found."""
        found = []
        if not self.stationarity.reached:
            found.append(f"not at a minimum: {self.stationarity}")
        if self.solver.condition is not None and self.solver.condition > ILL_CONDITIONED:
            found.append(f"ill-conditioned curvature, condition number {self.solver.condition:.1e}")
        if self.highest_leverage > HIGH_LEVERAGE:
            found.append(
                f"training point {self.highest_point} has leverage {self.highest_leverage:.2f}: confirm its drop by a refit"
            )
        if self.damping_share > 0.01:
            found.append(f"damping is {self.damping_share:.0%} of the mean curvature")
        return found

    def __str__(self) -> str:
        lines = [
            f"stationarity   {self.stationarity}",
            f"curvature      lowest eigenvalue {self.lowest_curvature:.3g}, mean {self.mean_curvature:.3g}, damping share {self.damping_share:.2g}",
            f"solver         {self.solver}",
            f"leverage       mean {self.mean_leverage:.3g}, highest {self.highest_leverage:.3g} (training point {self.highest_point})",
            *(f"note           {note}" for note in self.notes),
            f"concerns       {'; '.join(self.concerns) or 'none'}",
        ]
        return "\n".join(lines)

    __repr__ = __str__


def trust(fitted: Fitted) -> Trust:
    """Measure everything a reader needs before believing a number."""
    owned = leverage(fitted)
    inverse = fitted.inverse
    mean = float(fitted.curvature.matrix.diagonal().mean())
    top = int(np.argmax(owned))
    return Trust(
        fitted.stationarity,
        inverse.lowest_eigenvalue(),
        mean,
        fitted.damping / mean,
        inverse.verdict,
        float(owned.mean()),
        float(owned[top]),
        fitted.objective.examples.ids[top].item(),
        fitted.adapted.notes,
    )
