"""The undropped Newton step from parameters that need not be a minimum [KL17 A7, A11]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import IndefiniteCurvature
from upweight.linop import Dense, LinearOperator
from upweight.solve.inverse import inverse


@dataclass(frozen=True)
class NewtonStep:
    """One Newton step towards the minimiser of Q + εL(z, ·), and how it splits.

        step         N_ε = −[H + εH_z]⁻¹ (g + ε∇L)              [KL17 A7]
        constant     N_0 = −H⁻¹g, the same for every z           [KL17 A11]
        contribution ε·I_up,params(z) = −εH⁻¹∇L                  [KL17 A11]
        remainder    step − constant − contribution, O(ε‖g‖ + ε²)

    Every field but epsilon, damping and train_ids is (k, p), one row a training point, in the units of θ. Where the study is
    damped, H is H + λI in all of them: away from a minimum H need not be positive definite.
    """

    train_ids: np.ndarray
    epsilon: float
    step: np.ndarray
    constant: np.ndarray
    contribution: np.ndarray
    damping: float = 0.0

    @property
    def remainder(self) -> np.ndarray:
        """What constant + contribution leaves out of the step."""
        return self.step - self.constant - self.contribution

    def __repr__(self) -> str:
        size = np.linalg.norm(self.step, axis=-1).max()
        left = np.linalg.norm(self.remainder, axis=-1).max()
        damped = f" and λ = {self.damping:.3g}" if self.damping else ""
        return (
            f"NewtonStep for {len(self.train_ids)} training point(s) at ε = {self.epsilon:.3g}{damped}: ‖step‖ up to {size:.3g}; the constant, "
            f"the same for every point, has ‖·‖ {np.linalg.norm(self.constant[0]):.3g}; constant + contribution leaves out {left:.3g}."
        )


def undropped_step(
    curvature: Float[Tensor, "p p"],
    gradient: Float[Tensor, "p"],
    example_curvature: Float[Tensor, "p p"],
    example_gradient: Float[Tensor, "p"],
    epsilon: float,
    gauge: Float[Tensor, "g p"] | None = None,
    symmetric: bool = True,
) -> Float[Tensor, "p"]:
    """N_ε = −[H + εH_z]⁻¹(g + ε∇L): neither the example's curvature nor g is dropped [KL17 A7]."""
    total = Dense(curvature + epsilon * example_curvature, is_symmetric=symmetric)
    return -((gradient + epsilon * example_gradient) @ inverse(total, gauge).T)


def retained_step(
    remaining: LinearOperator,
    gradient_change: Float[Tensor, "p"],
    gauge: Float[Tensor, "g p"] | None,
    what: str,
) -> Float[Tensor, "p"]:
    """δ = −(H + ΔH)⁻¹ Δψ: the Newton step on the curvature H + ΔH that remains after a change of many points.

    Raises:
        IndefiniteCurvature: what remains does not determine the parameters.
    """
    try:
        solver = inverse(remaining, gauge)
    except IndefiniteCurvature as error:
        raise IndefiniteCurvature(
            f"after {what}, {error} The remaining data may not determine every parameter; order='first' needs only H."
        ) from None
    return -(gradient_change @ solver.T)


def stacked(steps: list[Tensor]) -> np.ndarray:
    """Rows as one array."""
    return torch.stack(steps).cpu().numpy()
