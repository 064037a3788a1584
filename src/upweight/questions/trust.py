"""How far the answers can be believed, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from upweight.curvature import mean_eigenvalue
from upweight.errors import IndefiniteCurvature, plain
from upweight.fitted import Fitted
from upweight.gradients import Stationarity
from upweight.questions.points import leverage
from upweight.solve import CholeskyInverse, Inverse, LUInverse, Verdict
from upweight.solve.direct import ILL_CONDITIONED, lowest_eigenvalue

HIGH_LEVERAGE = 0.5
"""A point that owns half of its own fit: first order is wrong there by a factor of two."""

FLAT = 0.01
"""A network whose lowest curvature is below this share of the mean has a direction along which refits wander."""

FAR = 0.05
"""A pending Newton step that moves the outputs by more than this share of their size is not a small correction."""

MUCH_DAMPING = 0.01
"""Damping above this share of the mean curvature changes effects visibly."""


@dataclass(frozen=True)
class Trust:
    """What a study measured about itself.

    Attributes:
        stationarity: ‖∇Q‖ in units of a typical ‖∇ℓᵢ‖.
        pending_shift: by how much the Newton step still to be taken would move the outputs, in units of their
            root mean square; NaN where there is no exact curvature to take it with.
        lowest_curvature: smallest eigenvalue of H + λI away from the gauge; NaN for structured curvature.
        mean_curvature: mean eigenvalue of H.
        damping_share: damping in units of the mean eigenvalue.
        solver: method, measured residual, condition number, gauge directions; why there is no inverse otherwise.
        mean_leverage, highest_leverage: of the training points; first order misses 1/(1 − leverage).
        highest_point: id of the training point with the highest leverage.
        convex: the model is linear in its parameters, so that a minimum is the minimum.
        hessian_floor: the lowest eigenvalue of a Hessian that is not positive definite, for which the damped Gauss-Newton
            matrix answers; NaN elsewhere.
    """

    stationarity: Stationarity
    pending_shift: float
    lowest_curvature: float
    mean_curvature: float
    damping_share: float
    solver: Verdict | str
    mean_leverage: float
    highest_leverage: float
    highest_point: object
    convex: bool
    hessian_floor: float = float("nan")
    notes: tuple[str, ...] = ()

    @property
    def concerns(self) -> list[str]:
        """What a reader should hesitate over; empty when nothing was found."""
        found = []
        if isinstance(self.solver, str):
            found.append(f"no answer without more damping or penalty: {self.solver}")
        if not np.isnan(self.hessian_floor):
            found.append(
                f"the Hessian is not positive definite (lowest eigenvalue {self.hessian_floor:.3g}), so these parameters are no strict minimum and the damped Gauss-Newton matrix answers; train further, or pass the penalty of the training run"
            )
        if not self.stationarity.reached:
            found.append(f"not at a minimum: {self.stationarity}")
        if self.pending_shift > FAR:
            found.append(
                f"not at a minimum: the Newton step still to be taken would move the outputs by {self.pending_shift:.0%} of their size; check penalty= and loss= against the training run, or train further"
            )
        flat = self.lowest_curvature < FLAT * self.mean_curvature
        if flat and not self.convex and not isinstance(self.solver, str):
            found.append(
                f"the curvature is as low as {self.lowest_curvature / self.mean_curvature:.1g} of its mean: along such a direction refits go farther than predicted; confirm with check()"
            )
        if isinstance(self.solver, Verdict) and (self.solver.condition or 0.0) > ILL_CONDITIONED:
            found.append(f"ill-conditioned curvature, condition number {self.solver.condition:.1e}")
        if isinstance(self.solver, Verdict) and not self.solver.converged:
            found.append(f"the solver did not converge: residual {self.solver.residual:.2g}")
        if self.highest_leverage > HIGH_LEVERAGE:
            found.append(
                f"training point {self.highest_point} has leverage {self.highest_leverage:.2f}: confirm its drop by a refit"
            )
        if self.mean_leverage > HIGH_LEVERAGE and not self.convex:
            found.append(
                f"the mean leverage is {self.mean_leverage:.2f}: the curvature at hand overstates what single points own, so take first order, not order='newton'"
            )
        if self.damping_share > MUCH_DAMPING:
            found.append(f"damping is {self.damping_share:.0%} of the mean curvature")
        return found

    def __str__(self) -> str:
        lines = [
            f"stationarity   {self.stationarity}{self._unless_nan('; the pending Newton step moves the outputs by {:.2g} of their size', self.pending_shift)}",
            f"curvature      {self._unless_nan('lowest eigenvalue {:.3g}, ', self.lowest_curvature)}mean {self.mean_curvature:.3g}, damping share {self.damping_share:.2g}",
            f"solver         {self.solver}",
            f"leverage       mean {self.mean_leverage:.3g}, highest {self.highest_leverage:.3g} (training point {self.highest_point})",
            *(f"note           {note}" for note in self.notes),
            *(f"concern        {concern}" for concern in self.concerns or ["none"]),
        ]
        return "\n".join(lines)

    __repr__ = __str__

    @staticmethod
    def _unless_nan(words: str, value: float) -> str:
        return "" if np.isnan(value) else words.format(value)


def trust(fitted: Fitted) -> Trust:
    """Measure everything a reader needs before believing a number; what fails is itself a finding."""
    try:
        inverse = fitted.row_inverse(1) if fitted.structured or fitted.iterates else fitted.exact.inverse
        verdict = _measured(fitted, inverse) if fitted.iterates else inverse.verdict
    except IndefiniteCurvature as error:
        return _without_inverse(fitted, str(error))
    owned = leverage(fitted, aloud=False)
    exact = isinstance(inverse, CholeskyInverse | LUInverse)
    top = int(np.argmax(owned))
    return Trust(
        stationarity=fitted.measured_stationarity,
        pending_shift=_pending_shift(fitted) if exact else float("nan"),
        lowest_curvature=inverse.lowest_eigenvalue() if isinstance(inverse, CholeskyInverse) else float("nan"),
        mean_curvature=fitted.mean_curvature,
        damping_share=verdict.damping_share,
        solver=verdict,
        mean_leverage=float(owned.mean()),
        highest_leverage=float(owned[top]),
        highest_point=plain(fitted.objective.examples.ids[top]),
        convex=fitted.linear,
        hessian_floor=fitted.hessian_floor,
        notes=(*fitted.adapted.notes, *([ITERATED] if fitted.stands_in else [])),
    )


ITERATED = "Leverage is EK-FAC's, which stands in for a curvature that is only iterated"


def _measured(fitted: Fitted, inverse: Inverse) -> Verdict:
    """The verdict of a solve of one row of signs: what the solver reaches on this matrix."""
    signs = torch.ones(1, inverse.size, dtype=torch.float64, device=fitted.weights.device)
    signs[:, 1::2] = -1.0
    return inverse.solve(signs).verdict


def _without_inverse(fitted: Fitted, why: str) -> Trust:
    nothing = float("nan")
    return Trust(
        stationarity=fitted.measured_stationarity,
        pending_shift=nothing,
        lowest_curvature=lowest_eigenvalue(fitted.exact.curvature.matrix),
        mean_curvature=mean_eigenvalue(fitted.exact.curvature),
        damping_share=fitted.exact.damping / mean_eigenvalue(fitted.exact.curvature),
        solver=why,
        mean_leverage=nothing,
        highest_leverage=nothing,
        highest_point=None,
        convex=fitted.linear,
        notes=fitted.adapted.notes,
    )


def _pending_shift(fitted: Fitted) -> float:
    """‖J s‖ over the training set in units of ‖η‖, each about its own mean over examples."""
    shifts, outputs = [], []
    for _, batch in fitted.engine.batches():
        eta, _, jacobian = fitted.engine.linearised(batch)
        outputs.append(eta.double())
        shifts.append(jacobian.jvp(fitted.pending.unsqueeze(0)).squeeze(2).double())
    spread = (eta := torch.cat(outputs)) - eta.mean(0)
    return float(torch.cat(shifts).norm() / spread.norm().clamp_min(torch.finfo(torch.float64).tiny))
