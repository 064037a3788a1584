"""Claims that a fitted model makes, each a number against a limit: a claim falls when the number passes the limit.

sign            θ_j                     has the sign it has
significance    θ_j ∓ q·se, the end of its interval nearer to zero     on its side of zero
both            θ_j ± q·se, the far end of the interval                on its side of zero
a measure       φ(query)                on its side of ``to``
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import stats

from upweight._typing import Float, Tensor
from upweight.errors import IndefiniteCurvature
from upweight.evaluate.states import measured_at
from upweight.fitted import Fitted
from upweight.inference.covariance import covariance_matrix
from upweight.inference.scale import Scale
from upweight.inference.variance import Variance
from upweight.inference.worst_case.result import Estimate
from upweight.influence.changes import corrected
from upweight.questions import points
from upweight.questions.question import MeasureLike, Question
from upweight.questions.terms import point_tiles


class Claim(ABC):
    """A number of a fitted model, how it changes with each point, and in which words."""

    name: str
    """What the number is of."""
    words: str
    """What it would mean for the claim to fall."""
    number: str
    """What the number is, in words."""
    limit: float
    exact: bool = True
    """One step is exact, or nearly; otherwise a few of the best are tried for real."""

    @abstractmethod
    def value(self, fitted: Fitted) -> float:
        """The number."""

    @abstractmethod
    def first_order(self, fitted: Fitted) -> Float[Tensor, "n"]:
        """Its predicted change if each point is left out, to first order: these may be added up."""

    @abstractmethod
    def one_step(self, fitted: Fitted) -> Float[Tensor, "n"]:
        """Its predicted change if each point alone is left out, as exactly as one step gives it."""

    @abstractmethod
    def estimate(self, fitted: Fitted) -> Estimate:
        """What a reader wants to see before and after."""


@dataclass(frozen=True)
class Sign(Claim):
    """θ_j, and which side of zero it is on."""

    coordinate: int
    name: str
    scale: Scale | None
    level: float
    limit: float = 0.0
    words: str = "change its sign"
    number: str = "the coefficient"

    def value(self, fitted: Fitted) -> float:
        return float(fitted.objective.theta[self.coordinate])

    def first_order(self, fitted: Fitted) -> Tensor:
        return _moves(fitted, self.coordinate, "first")

    def one_step(self, fitted: Fitted) -> Tensor:
        return _moves(fitted, self.coordinate, "newton")

    def estimate(self, fitted: Fitted) -> Estimate:
        if self.scale is None:
            return Estimate(self.value(fitted))
        return estimate_of(fitted, self.coordinate, self.scale, self.level)


@dataclass(frozen=True)
class IntervalEnd(Claim):
    """θ_j + side·q·se, an end of its confidence interval."""

    coordinate: int
    name: str
    scale: Scale
    level: float
    side: float
    words: str
    limit: float = 0.0
    number: str = "the end of its confidence interval"
    exact: bool = False

    def value(self, fitted: Fitted) -> float:
        found = self.estimate(fitted)
        return found.high if self.side > 0 else found.low

    def first_order(self, fitted: Fitted) -> Tensor:
        return _moves(fitted, self.coordinate, "first") + self._of_error(fitted)

    def one_step(self, fitted: Fitted) -> Tensor:
        return _moves(fitted, self.coordinate, "newton") + self._of_error(fitted)

    def estimate(self, fitted: Fitted) -> Estimate:
        return estimate_of(fitted, self.coordinate, self.scale, self.level)

    def _of_error(self, fitted: Fitted) -> Float[Tensor, "n"]:
        """side·q·d(se), −wᵢ of weight on each point."""
        scale = at_weights(self.scale, fitted)
        error = Variance(fitted, scale, _unit(fitted, self.coordinate))
        spread = float(error.at(fitted.weights, fitted.objective.theta.double())) ** 0.5
        return -self.side * quantile(scale, self.level) * fitted.weights * error.gradient() / (2 * spread)


@dataclass(frozen=True)
class Measured(Claim):
    """φ of a query set."""

    question: Question
    name: str
    words: str
    limit: float
    number: str

    def value(self, fitted: Fitted) -> float:
        return float(measured_at(self._of(fitted), fitted.objective.theta.double())[0])

    def first_order(self, fitted: Fitted) -> Tensor:
        return self._effects(fitted, "first")

    def one_step(self, fitted: Fitted) -> Tensor:
        return self._effects(fitted, self.question.order)

    def estimate(self, fitted: Fitted) -> Estimate:
        return Estimate(self.value(fitted))

    def _of(self, fitted: Fitted, order: str = "auto") -> Question:
        asked: MeasureLike = self.question.measure
        return Question(fitted, self.question.query, asked, order, self.question.aggregate)

    def _effects(self, fitted: Fitted, order: str) -> Float[Tensor, "n"]:
        return torch.as_tensor(points.drop(self._of(fitted, order), None).values[0])


def estimate_of(fitted: Fitted, coordinate: int, scale: Scale, level: float) -> Estimate:
    """θ_j with its standard error, interval and p-value."""
    scale = at_weights(scale, fitted)
    value = float(fitted.objective.theta[coordinate])
    try:
        error = float(covariance_matrix(fitted, scale)[coordinate, coordinate]) ** 0.5
    except IndefiniteCurvature:
        error = float("nan")  # what is left says nothing about how clusters differ
    reach = quantile(scale, level) * error
    freedom = scale.freedom
    two_sided = 2 * (
        stats.norm.sf(abs(value) / error) if np.isinf(freedom) else stats.t.sf(abs(value) / error, freedom)
    )
    return Estimate(value, error, value - reach, value + reach, float(two_sided))


def quantile(scale: Scale, level: float) -> float:
    """The two-sided critical value at this level, of the t distribution where the fit asks for it."""
    tail = 1 - level / 2
    return float(stats.norm.ppf(tail) if np.isinf(scale.freedom) else stats.t.ppf(tail, scale.freedom))


def at_weights(scale: Scale, fitted: Fitted) -> Scale:
    """The scale of what remains: points left out no longer count."""
    return replace(scale, base=fitted.weights.cpu())


def _moves(fitted: Fitted, coordinate: int, order: str) -> Float[Tensor, "n"]:
    """The change of θ_j when each point is left out."""
    row, pull = _unit(fitted, coordinate).unsqueeze(0), fitted.penalty_gradient
    found = torch.zeros_like(fitted.weights)
    for tile in point_tiles(fitted, np.arange(fitted.objective.count), -fitted.weights):
        changes, push = tile.changes, tile.changes.push
        inverse = fitted.exact.inverse if order == "first" else fitted.own_inverse(changes.share)
        if order != "first":
            correction = corrected(changes, inverse, pull if changes.share else None)
            push = correction.push * ~correction.refused[:, None]  # what is left would not determine θ
        solved = row @ inverse
        found[tile.columns] = -(changes.block(push).against(solved) + changes.share * (solved @ pull))[:, 0]
    return found


def _unit(fitted: Fitted, coordinate: int) -> Float[Tensor, "p"]:
    row = torch.zeros(fitted.objective.space.size, dtype=torch.float64)
    row[coordinate] = 1.0
    return row
