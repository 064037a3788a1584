"""How far θ̂ is from a minimum: ∇Q(θ̂) = 0 is measured, never assumed [KL17 A4-A6]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import NonFiniteGradient, NotStationaryWarning, warn
from upweight.float32_products import fast_float32
from upweight.gradients.engine import Engine
from upweight.objective import Examples
from upweight.objective.data import Chosen

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
    sampled: int = 0
    """How many examples ‖∇Q‖ was estimated from; 0 where all were read."""
    spread: float = 0.0
    """How far ratio may be off by the choice of those examples."""

    @property
    def reached(self) -> bool:
        """True when the ratio is within the limit, or may be, for all that some of the examples tell."""
        return self.ratio - self.spread <= LIMIT

    def __str__(self) -> str:
        how = f" (give or take {self.spread:.2g}, from {self.sampled:,} examples)" if self.sampled else ""
        if self.sampled and self.ratio < self.spread:
            found = f"‖∇Q‖ is below {self.spread:.2g} of a typical ‖∇ℓᵢ‖ (limit {LIMIT}), as far as {self.sampled:,} examples tell"
        else:
            found = f"‖∇Q‖ is {self.ratio:.2g}{how} of a typical ‖∇ℓᵢ‖ (limit {LIMIT}), the weight of {self.points:.2g} training points"
        return found if self.reached else f"{found}, mostly in {self.mostly_in!r}: not a minimum"

    def warn(self) -> None:
        """Say so when θ̂ is not stationary; scores are still the exact derivative of the proximal response."""
        if not self.reached:
            advice = "Expected a minimum of the objective, penalty included. Train further, check loss=, weights= and penalty= against the training run, or ask for newton_step() or estimand='newton'."
            warn(f"{self}. {advice}", NotStationaryWarning)


def measure_stationarity(engine: Engine) -> Stationarity:
    """One pass over the training set: the gradient of Q, and every loss and gradient checked finite.

    Raises:
        NonFiniteGradient: a loss or gradient is NaN or infinite, naming the example.
    """
    objective = engine.objective
    places = np.arange(objective.count)
    return _in_units(engine, *_sums(engine, objective.examples, objective.weights), places)


def estimate_stationarity(engine: Engine, examples: int) -> Stationarity:
    """The same from evenly spaced examples, for networks whose pass is dear.

    ‖ĝ‖² of a sample is too large by about σ²·Σv²·(1 − k/n), σ² = E‖∇ℓᵢ − ∇ℓ‖² and v the sample's weights in
    shares of their sum; that is taken off, and its root is how far the ratio may be off.

    Raises:
        NonFiniteGradient: a loss or gradient of the sample is NaN or infinite, naming the example.
    """
    objective = engine.objective
    if objective.count <= examples:
        return measure_stationarity(engine)
    weighing = objective.weights.cpu().numpy().nonzero()[0]
    places = weighing[np.linspace(0, len(weighing) - 1, min(examples, len(weighing))).astype(int)]
    weights = objective.weights[places]
    weights = weights * (objective.total_weight / float(weights.sum()))
    return _in_units(engine, *_sums(engine, Chosen(objective.examples, places), weights), places)


def _sums(engine: Engine, examples: Examples, amounts: Float[Tensor, "n"]) -> tuple[Float[Tensor, "p"], float]:
    """Σ wᵢ∇ℓᵢ and Σ wᵢ‖∇ℓᵢ‖², every loss and gradient checked."""
    objective = engine.objective
    total, squares = objective.weights.new_zeros(objective.space.size), objective.weights.new_zeros(())
    with objective.fold.phase("stationarity"):
        for where, batch in engine.own_batches(examples):
            weights, names = amounts[where], examples.ids[where]
            outputs, targets, jacobian = engine.linearised(batch, names)
            block = jacobian.vjp(objective.loss.gradient(outputs, targets))
            with fast_float32():
                norms = block.squared_norms().to(weights.dtype)
                block.add_sum(weights, total)
            _check(objective.loss.values(outputs, targets), norms, names)
            squares += weights @ norms
    objective.fold.sum("stationarity", [total, squares])
    return total, float(squares)


def _in_units(engine: Engine, total: Tensor, squares: float, places: np.ndarray) -> Stationarity:
    objective, weight = engine.objective, engine.objective.total_weight
    gradient = total + objective.penalty.gradient(objective.theta.to(total.dtype))
    typical = (max(squares, 0.0) / weight) ** 0.5
    shares = objective.weights[places] / objective.weights[places].sum()
    uneven = float(shares.square().sum()) * (1 - len(places) / objective.count)
    noise = max(squares * weight - float(total @ total), 0.0) * uneven
    norm = max(float(gradient @ gradient) - noise, 0.0) ** 0.5
    pieces = {name: float(gradient[where].norm()) for name, where in engine.objective.space.slices().items()}
    rounding = torch.finfo(engine.objective.theta.dtype).eps * float(engine.objective.theta.norm() + 1)
    ratio = 0.0 if norm <= rounding else norm / max(weight * typical, torch.finfo(torch.float64).tiny)
    mostly = max(pieces, key=lambda name: pieces[name])
    sampled = len(places) if len(places) < objective.count else 0
    spread = noise**0.5 / max(weight * typical, torch.finfo(torch.float64).tiny)
    return Stationarity(gradient, typical, ratio, mostly, ratio * engine.objective.count, sampled, spread)


def _check(losses: Tensor, norms: Tensor, names: object) -> None:
    for what, values in (("loss", losses), ("gradient", norms)):
        if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
            first = int((~torch.isfinite(values)).nonzero()[0])
            raise NonFiniteGradient(
                f"the {what} of training example {names[first]} is {'NaN' if values[first].isnan() else 'infinite'}. "  # type: ignore[index]
                "Expected finite numbers; look at this example's input and target, or the loss at extreme outputs."
            )
