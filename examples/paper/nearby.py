"""The loss near where training stopped, as a quadratic: what gradient descent would do on it, with a point and without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from network import DECAY, Unconverged

import upweight as uw
from upweight.curvature import hessian


@dataclass
class Quadratic:
    """The loss near where training stopped, in the eigenvectors of its Hessian.

    Attributes:
        values: (p,), the eigenvalues, weight decay included; the last is the largest.
        vectors: (p, p), a column each.
        query: (p,), the slope of the query's loss along each.
        pulls: (points, p), along each, minus what leaving the point out adds to the slope of the training loss.
    """

    values: np.ndarray
    vectors: np.ndarray
    query: np.ndarray
    pulls: np.ndarray

    def change(self, f: np.ndarray) -> np.ndarray:
        """(points,), of the query's loss to first order, f(Λ) in the place of Λ⁻¹."""
        return (self.pulls * f) @ self.query

    def share(self, moved: np.ndarray, below: float) -> float:
        """Of the first-order changes that ``moved`` (points, p), in eigenvectors, makes: the part along eigenvalues below this, by least squares."""
        along = moved * self.query
        part, whole = along[:, self.values < below].sum(1), along.sum(1)
        return float(part @ whole / (whole @ whole))

    def descended(self, rate: float, steps: int) -> np.ndarray:
        """f(Λ) of so many steps of gradient descent, (1 − (1 − ηΛ)ᴷ)/Λ: a sum of powers, which no Λ divides by zero."""
        place = np.zeros_like(self.values)
        for _ in range(steps):
            place = place - rate * (self.values * place - 1)
        return place


def quadratic(found: Unconverged, points: np.ndarray) -> Quadratic:
    """Of an unconverged network, for these points."""
    objective = found.study.objective
    values, vectors = np.linalg.eigh(hessian(objective).dense().numpy())
    query, G = (uw.rows(objective, one).dense().double().numpy() for one in (found.query, found.training.data))
    return Quadratic(values, vectors, query[0] @ vectors, (G[points] - G.mean(0)) @ vectors / (len(G) - 1))


def descended(found: Unconverged, points: np.ndarray, rate: float, steps: int) -> np.ndarray:
    """(points,), changes of the query's loss to first order if the training loss were quadratic: descent without each point, on
    a Hessian and from a slope that are without it, less descent with all."""
    objective, n = found.study.objective, len(found.training.examples)
    mean, G = hessian(objective).dense().numpy(), uw.rows(objective, found.training.data).dense().double().numpy()
    query = uw.rows(objective, found.query).dense().double().numpy()[0]
    decay = DECAY * objective.theta.double().numpy()
    control = _along(mean, G.mean(0) + decay, query, rate, steps)
    found_changes = []
    for point in points:
        net, data = (
            found.training.model(found.training.start),
            [part[point : point + 1] for part in found.training.data],
        )
        own = uw.Study(net, tuple(data), loss="cross_entropy", penalty=uw.L2(DECAY), curvature="identity").objective
        matrix = (n * mean - hessian(own).dense().numpy()) / (n - 1)  # the decay of both is the same, and stays
        found_changes.append(_along(matrix, (G.sum(0) - G[point]) / (n - 1) + decay, query, rate, steps) - control)
    return np.array(found_changes)


def _along(matrix: np.ndarray, slope: np.ndarray, query: np.ndarray, rate: float, steps: int) -> float:
    """How far descent from zero on ½θᵀHθ + slopeᵀθ goes along the query's slope."""
    theta = np.zeros_like(slope)
    for _ in range(steps):
        theta = theta - rate * (matrix @ theta + slope)
    return float(query @ theta)
