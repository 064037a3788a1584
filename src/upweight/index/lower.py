"""What is known to lie below the curvature: D ≼ H, from which every bound of H⁻¹ follows.

    H = Σ wᵢJᵢᵀΛᵢJᵢ + D,  wᵢ ≥ 0, Λᵢ ≽ 0, D = ∇²r + λI diagonal and above zero
    rᵀH⁻¹r ≤ rᵀD⁻¹r
    gᵢᵀH⁻¹gᵢ ≤ gᵢᵀ(D + wᵢJᵢᵀΛᵢJᵢ)⁻¹gᵢ = uᵀK(I + wᵢΛᵢK)⁻¹u,   gᵢ = Jᵢᵀu, K = JᵢD⁻¹Jᵢᵀ

Where the curvature is written out and D is not above zero, μI takes its place, μ the lowest eigenvalue less its rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from upweight._typing import Float, Tensor
from upweight.curvature.fisher import MOST_LABELS
from upweight.errors import ConfigError, IndefiniteCurvature
from upweight.fitted import Fitted
from upweight.linop import Diagonal, KroneckerEigen, LinearOperator
from upweight.objective import Loss
from upweight.tiles import Jacobian
from upweight.tiles.layer_jacobians import FactoredJacobian, LayerJacobian, layer_sandwich, sum_of

CURVED = 1e-9
"""Below this share of the largest, an eigenvalue of Λᵢ is zero up to rounding."""

ROUNDING = 1e3
"""Units of rounding of the model's type that a sum of squares over θ may be off by, relative to itself."""

SPECTRUM = 4096
"""Parameters up to which the whole spectrum is computed for its lowest end."""


@dataclass(frozen=True)
class Lower:
    """D, diagonal; and the loss whose output Hessians lie above zero.

    Attributes:
        sum_of_squares: H − D is Σ wᵢJᵢᵀΛᵢJᵢ, so that an example's own term may be added to D.
        weight: the smallest any example has: its own term is taken no larger.
        pull: a bound of ρ√(∇rᵀH⁻¹∇r)/wᵢ, the part of a change that the penalty makes.
    """

    diagonal: Float[Tensor, "p"]
    loss: Loss
    sum_of_squares: bool
    weight: float
    pull: float = 0.0

    @property
    def without_own(self) -> Lower:
        """The same for examples the curvature holds no term of: their own must not be added to D."""
        return replace(self, sum_of_squares=False)

    def residual(self, rows: Float[Tensor, "m p"]) -> Float[Tensor, "m"]:
        """A bound of √(rᵀH⁻¹r)."""
        return (rows.double().square() / self.diagonal.double()).sum(1).sqrt()

    def own(
        self, outputs: Tensor, targets: Tensor, jacobian: Jacobian, layers: tuple[LayerJacobian, ...]
    ) -> Float[Tensor, "b"]:
        """A bound of √(gᵢᵀH⁻¹gᵢ) for every example, from its Jacobian and the layers of its gradient."""
        slack = 1 + ROUNDING * torch.finfo(outputs.dtype).eps
        plain = self._sandwich(layers)[:, 0, 0]
        if not self.sum_of_squares or outputs.shape[1] > MOST_LABELS:
            return slack * plain.clamp_min(0).sqrt()
        u = self.loss.gradient(outputs, targets).double()
        units = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        coupling = self._sandwich(jacobian.pulled([unit.expand(len(outputs), -1).contiguous() for unit in units]))  # K
        exact = targets.double() if targets.is_floating_point() else targets
        curvature = self.weight * self.loss.hessian(outputs.double(), exact)
        require_curved(curvature)
        system = torch.eye(u.shape[1], dtype=u.dtype, device=u.device) + curvature @ coupling
        solved = coupling @ torch.linalg.solve(system, u.unsqueeze(2))
        own = torch.linalg.vecdot(u, solved.squeeze(2))
        return slack * torch.minimum(plain, own).clamp_min(0).sqrt()

    def _sandwich(self, layers: tuple[LayerJacobian, ...]) -> Float[Tensor, "b k k"]:
        """JD⁻¹Jᵀ, layer by layer."""
        return sum_of([layer_sandwich(layer, self._block(layer)).double() for layer in layers])

    def _block(self, layer: LayerJacobian) -> LinearOperator:
        """D⁻¹ on a layer, in the form its rows are met in without being written out."""
        inverse = 1 / self.diagonal.to(layer.slopes.device, torch.float64)
        entries = layer.layout.gather(inverse.unsqueeze(0))[0].to(layer.slopes)
        if not isinstance(layer, FactoredJacobian) or layer.inputs.shape[1] > 1:
            return Diagonal(entries)
        o, i = layer.slopes.shape[3], layer.inputs.shape[2]
        return KroneckerEigen(torch.eye(o).to(entries), torch.eye(i).to(entries), entries.view(o, i))


def lower_bound(fitted: Fitted) -> Lower | None:
    """D of a study whose curvature is exact; None for a structured one, whose inverse needs no solve.

    Raises:
        ConfigError: nothing is known to lie below the curvature.
        IndefiniteCurvature: it is not positive definite.
    """
    if fitted.structured:
        return None
    objective = fitted.objective
    squares = fitted.kind == "ggn" or fitted.linear
    damping = fitted.blocked.damping if fitted.iterates else fitted.exact.damping
    diagonal = objective.penalty.diagonal.double().to(objective.theta.device) + damping
    weight = float(objective.weights.min())
    if squares and float(diagonal.min()) > 0 and weight >= 0:
        return _with_pull(Lower(diagonal, objective.loss, True, weight), fitted)
    if fitted.iterates or objective.space.size > SPECTRUM:
        raise ConfigError(
            f"certified answers need something known to lie below the curvature, and curvature={fitted.kind!r} has no penalty or damping on some parameter. Expected one on every parameter, with curvature='ggn' or a linear model, or at most {SPECTRUM:,} parameters; add penalty=uw.L2(...) or damping=..."
        )
    level = _lowest(fitted)
    return _with_pull(Lower(torch.full_like(diagonal, level), objective.loss, False, 0.0), fitted)


def _with_pull(lower: Lower, fitted: Fitted) -> Lower:
    share = float(fitted.shares(fitted.weights.new_ones(1))[0])
    return replace(lower, pull=share * float(lower.residual(fitted.penalty_gradient.unsqueeze(0))[0]))


def _lowest(fitted: Fitted) -> float:
    """μ ≤ every eigenvalue of H + λI away from the gauge, rounding included."""
    exact = fitted.exact
    matrix = exact.curvature.matrix.clone()
    matrix.diagonal().add_(exact.damping)
    if exact.gauge is not None:
        matrix += float(matrix.diagonal().abs().mean()) * exact.gauge.T @ exact.gauge
    values = torch.linalg.eigvalsh(matrix)
    level = float(values[0]) - len(values) * torch.finfo(values.dtype).eps * float(values.abs().max())
    if level <= 0:
        raise IndefiniteCurvature(
            f"certified answers found a lowest eigenvalue of {float(values[0]):.3g} in the curvature. Expected every one clearly above zero; add a penalty or damping."
        )
    return level


def require_curved(curvature: Float[Tensor, "b o o"]) -> None:
    """Refuse a loss that bends downwards at some example: nothing is known to lie below the curvature then.

    Raises:
        ConfigError: an output Hessian has an eigenvalue below zero.
    """
    values = torch.linalg.eigvalsh(curvature)
    if bool((values[:, 0] < -CURVED * values[:, -1].abs().clamp_min(torch.finfo(values.dtype).tiny)).any()):
        raise ConfigError(
            "certified answers found a loss that is not convex in the outputs. Expected a convex loss, such as cross_entropy or squared_error."
        )
