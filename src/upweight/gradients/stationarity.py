"""How far θ̂ is from a minimum: ∇Q(θ̂) = 0 is measured, never assumed [KL17 A4-A6]."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.errors import NonFiniteGradient, NotStationaryWarning
from upweight.gradients.engine import Engine

LIMIT = 0.05
"""‖∇Q‖ above this share of a typical ‖∇ℓᵢ‖ is said aloud: the derivative is then taken off the minimum."""


@dataclass(frozen=True)
class Stationarity:
    """∇Q(θ̂) in units of a typical example's gradient.

    ratio is ‖∇Q‖ / (Σwᵢ · root-mean-square ‖∇ℓᵢ‖): 0 at a minimum, 1 for an untrained model with
    gradients that all agree. points is the same in typical single points, ratio · n: what remains to be
    trained weighs as much as that many points do.
    """

    gradient: Float[Tensor, "p"]
    typical: float
    ratio: float
    mostly_in: str
    points: float

    @property
    def reached(self) -> bool:
        """True when the ratio is within the limit."""
        return self.ratio <= LIMIT

    def __str__(self) -> str:
        found = f"‖∇Q‖ is {self.ratio:.2g} of a typical ‖∇ℓᵢ‖ (limit {LIMIT}), the weight of {self.points:.2g} training points"
        return found if self.reached else f"{found}, mostly in {self.mostly_in!r}: not a minimum"

    def warn(self) -> None:
        """Say so when θ̂ is not stationary; scores are still the exact derivative of the proximal response."""
        if not self.reached:
            advice = "Expected a minimum of the objective, penalty included. Train further, check loss=, weights= and penalty= against the training run, or ask for newton_step() or estimand='newton'."
            warnings.warn(f"{self}. {advice}", NotStationaryWarning, stacklevel=4)


def measure_stationarity(engine: Engine) -> Stationarity:
    """One pass over the training set: the gradient of Q, and every loss and gradient checked finite.

    Raises:
        NonFiniteGradient: a loss or gradient is NaN or infinite, naming the example.
    """
    objective = engine.objective
    total, squares = objective.weights.new_zeros(objective.space.size), 0.0
    for where, batch in engine.batches():
        weights, names = objective.weights[where], objective.examples.ids[where]
        outputs, targets, jacobian = engine.linearised(batch, names)
        block = jacobian.vjp(objective.loss.gradient(outputs, targets))
        norms = block.squared_norms().to(weights.dtype)
        _check(objective.loss.values(outputs, targets), norms, names)
        squares += float(weights @ norms)
        total = total + block.sum(weights)
    gradient = total + objective.penalty.gradient(objective.theta.to(total.dtype))
    return _in_units(gradient, squares, engine)


def _in_units(gradient: Tensor, squares: float, engine: Engine) -> Stationarity:
    weight = engine.objective.total_weight
    typical = (max(squares, 0.0) / weight) ** 0.5
    norm = float(gradient.norm())
    pieces = {name: float(gradient[where].norm()) for name, where in engine.objective.space.slices().items()}
    rounding = torch.finfo(engine.objective.theta.dtype).eps * float(engine.objective.theta.norm() + 1)
    ratio = 0.0 if norm <= rounding else norm / max(weight * typical, torch.finfo(torch.float64).tiny)
    mostly = max(pieces, key=lambda name: pieces[name])
    return Stationarity(gradient, typical, ratio, mostly, ratio * engine.objective.count)


def _check(losses: Tensor, norms: Tensor, names: object) -> None:
    for what, values in (("loss", losses), ("gradient", norms)):
        if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
            first = int((~torch.isfinite(values)).nonzero()[0])
            raise NonFiniteGradient(
                f"the {what} of training example {names[first]} is {'NaN' if values[first].isnan() else 'infinite'}. "  # type: ignore[index]
                "Expected finite numbers; look at this example's input and target, or the loss at extreme outputs."
            )
