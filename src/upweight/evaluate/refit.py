"""The truth: really minimise the objective at other weights [KL17 A3]."""

from __future__ import annotations

import torch

from upweight._typing import Float, Tensor
from upweight.curvature import shift_gauge
from upweight.errors import IndefiniteCurvature, NotConverged
from upweight.fitted import Fitted
from upweight.questions.reweighted import Reweighted
from upweight.solve import Inverse, inverse

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}
"""‖∇Q‖ in units of a typical gradient at which a refit is done: a little above rounding."""

CONTRACTION = 0.1
"""A step that shrinks the gradient by less than this factor asks for a new Hessian."""

ATTEMPTS = 100


def refit(fitted: Fitted, weights: Float[Tensor, "n"], start: Float[Tensor, "p"] | None = None) -> Float[Tensor, "p"]:
    """argmin Σ w′ᵢℓᵢ + r′ by Newton's method from θ̂, or from ``start``; r′ follows the protocol.

    Raises:
        NotConverged: the gradient did not vanish.
    """
    removed = fitted.share(float((weights - fitted.weights).sum()))
    target = Reweighted(fitted.engine, weights, fitted.objective.penalty.scaled(1.0 + removed))
    return minimise(target, (fitted.objective.theta if start is None else start).double(), fitted.stationarity.typical)


def minimise(target: Reweighted, theta: Float[Tensor, "p"], typical: float) -> Float[Tensor, "p"]:
    """Newton steps with a kept factor while they contract, halved until the objective falls."""
    goal = TOLERANCE.get(target.engine.objective.theta.dtype, 1e-5) * float(target.weights.sum()) * max(typical, 1e-8)
    gradient, solver = target.gradient(theta), None
    for _ in range(ATTEMPTS):
        size = float(gradient.norm())
        if size <= goal:
            return theta
        solver = _factor(target, theta) if solver is None else solver
        step = -(gradient @ solver.T)
        theta_next, gradient_next = _descend(target, theta, step, size)
        if float(gradient_next.norm()) > CONTRACTION * size:
            solver = None
        if theta_next is theta:
            break
        theta, gradient = theta_next, gradient_next
    if float(gradient.norm()) <= 1e3 * goal:
        return theta
    raise NotConverged(
        f"the refit stopped with ‖∇Q‖ = {float(gradient.norm()):.2g}. Expected {goal:.1g}; train to a minimum first, or pass train= to refit your own way."
    )


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
