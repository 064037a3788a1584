"""The truth: really minimise the objective of a changed training set [KL17 A3]."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.curvature import shift_gauge
from upweight.errors import BudgetError, IndefiniteCurvature, NotConverged
from upweight.evaluate.altered import Altered
from upweight.fitted import Fitted
from upweight.linop import LinearOperator
from upweight.questions.reweighted import Reweighted
from upweight.solve import Inverse, inverse

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}
"""‖∇Q‖ in units of a typical gradient at which a refit is done: a little above rounding."""

ACCEPTED = 1e3
"""Times the tolerance at which a refit that rounding has stopped still counts as done; it is said."""

CONTRACTION = 0.1
"""A step that shrinks the gradient by less than this factor asks for a new Hessian."""

ATTEMPTS = 100


@dataclass(frozen=True)
class Minimum:
    """Where a refit ended, and ‖∇Q‖ there in units of a typical ‖∇ℓᵢ‖."""

    theta: Float[Tensor, "p"]
    gradient_norm: float


def refit(fitted: Fitted, weights: Float[Tensor, "n"], start: Float[Tensor, "p"] | None = None) -> Float[Tensor, "p"]:
    """argmin Σ w′ᵢℓᵢ + r′ by Newton's method from θ̂, or from ``start``; r′ follows the protocol.

    Raises:
        NotConverged: the gradient did not vanish.
    """
    return refit_altered(fitted, Altered(weights), start).theta


def refit_altered(fitted: Fitted, altered: Altered, start: Float[Tensor, "p"] | None = None) -> Minimum:
    """The same for any changed training set. The factor of H at θ̂ serves all refits that begin there, as long as it contracts.

    Raises:
        NotConverged: the gradient did not vanish.
    """
    removed = fitted.share(altered.total - fitted.objective.total_weight)
    penalty = fitted.objective.penalty.scaled(1.0 + removed)
    target = Reweighted(fitted.engine, altered.weights, penalty, altered.extra, altered.added)
    begin = (fitted.objective.theta if start is None else start).double()
    known = _known_factor(fitted) if start is None else None
    return minimise(target, begin, fitted.stationarity.typical, known)


def require_refits(fitted: Fitted, asked: str) -> None:
    """Refuse to begin where no refit can be made."""
    if not (fitted.small or (fitted.linear and fitted.exact.fits)):
        raise BudgetError(
            f"{asked} found {fitted.objective.space.size:,} parameters and no train=. Expected a model small enough for Newton's method within the memory budget; pass train=callable(weights, seed) → state dict, which retrains as you did."
        )


def minimise(
    target: Reweighted, theta: Float[Tensor, "p"], typical: float, known: LinearOperator | None = None
) -> Minimum:
    """Newton steps with a kept factor while they contract, halved until the objective falls."""
    unit = float(target.total) * max(typical, 1e-8)
    goal = TOLERANCE.get(target.engine.objective.theta.dtype, 1e-5) * unit
    gradient, solver = target.gradient(theta), known
    for _ in range(ATTEMPTS):
        size = float(gradient.norm())
        if size <= goal:
            return Minimum(theta, size / unit)
        solver = _factor(target, theta) if solver is None else solver
        theta_next, gradient_next = _descend(target, theta, -(gradient @ solver.T), size)
        stuck = theta_next is theta and solver is not known
        if float(gradient_next.norm()) > CONTRACTION * size:
            solver = None
        if stuck:
            break
        theta, gradient = theta_next, gradient_next
    if float(gradient.norm()) <= ACCEPTED * goal:
        return Minimum(theta, float(gradient.norm()) / unit)
    raise NotConverged(
        f"the refit stopped with ‖∇Q‖ = {float(gradient.norm()):.2g}. Expected {goal:.1g}; train to a minimum first, or pass train= to refit your own way."
    )


def _known_factor(fitted: Fitted) -> LinearOperator | None:
    """H⁻¹ at θ̂ where the study forms it anyway."""
    if fitted.structured or fitted.iterates or fitted.kind != "hessian" or not fitted.exact.fits:
        return None
    try:
        return fitted.exact.inverse
    except IndefiniteCurvature:
        return None


def _factor(target: Reweighted, theta: Tensor) -> Inverse:
    """The inverse Hessian; where it is indefinite, as far from a minimum, damped until it is not."""
    curvature = target.hessian(theta)
    gauge = shift_gauge(target.engine.objective, curvature)
    damping = 0.0
    for _ in range(30):
        try:
            return inverse(curvature.damped(damping), gauge)
        except IndefiniteCurvature:
            damping = max(10 * damping, 1e-6 * float(curvature.matrix.diagonal().abs().mean()))
    raise NotConverged(
        "the refit met a Hessian that no damping made positive definite. Expected finite curvature; look at the loss at extreme outputs."
    )


def _descend(target: Reweighted, theta: Tensor, step: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """The first of the step's halvings that shrinks the gradient or lowers the objective; theta itself if none."""
    before = None
    for halving in range(25):
        candidate = theta + step / 2**halving
        gradient = target.gradient(candidate)
        if float(gradient.norm()) < size * (1 - 1e-4):
            return candidate, gradient
        before = target.value(theta) if before is None else before
        if target.value(candidate) < before - 1e-15 * abs(before):
            return candidate, gradient
    return theta, target.gradient(theta)
