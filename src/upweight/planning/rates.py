"""How fast this machine does what a method is made of: a second of measuring, on the model's own layers and examples."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from upweight.float32_products import fast_float32
from upweight.gradients import Engine
from upweight.planning.counts import EIGEN
from upweight.planning.shapes import ModelShape

SECONDS = 0.15
"""Each rate is measured at least this long, after one turn that is not counted."""

ROWS, SIDE, EIGEN_SIDE = 4096, 1024, 384
"""Sizes of what is measured: rows of a product, its widest side, and the side of an eigendecomposition."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Rates:
    """FLOPs a second.

    Attributes:
        passes: of the model's forward and backward passes with every layer watched.
        products: of matrix products of the layers' sizes.
        eigen: of eigendecompositions in float64.
    """

    passes: float
    products: float
    eigen: float

    @classmethod
    def measured(cls, engine: Engine, shape: ModelShape, clock: Clock = time.perf_counter) -> Rates:
        """On the model and the machine at hand, in about a second."""
        return cls(_passes(engine, shape, clock), _products(engine, shape, clock), _eigen(clock))


def _passes(engine: Engine, shape: ModelShape, clock: Clock) -> float:
    """A tile of real examples, forward and once back."""
    objective = engine.objective
    count = min(engine.tile, objective.count)
    batch = objective.moved(objective.examples.read(slice(0, count)))

    def turn() -> None:
        outputs, targets, jacobian = engine.linearised(batch)
        jacobian.pulled([objective.loss.gradient(outputs, targets)])

    return 2 * shape.forward * count / _seconds(turn, clock)


def _products(engine: Engine, shape: ModelShape, clock: Clock) -> float:
    """Rows of the layer with the most work against a square of its side, in the model's type."""
    sides = [(count * s * (i * i + o * o), i, o) for count, s, i, o in shape.each()] or [(1, 64, 64)]
    _, i, o = max(sides)
    i, o, theta = min(i, SIDE), min(o, SIDE), engine.objective.theta
    rows = torch.ones(ROWS, i, dtype=theta.dtype, device=theta.device)
    other = torch.ones(ROWS, o, dtype=theta.dtype, device=theta.device)

    def turn() -> None:
        with fast_float32():
            torch.mm(rows, (other.T @ rows).T)

    return 4.0 * ROWS * i * o / _seconds(turn, clock)


def _eigen(clock: Clock) -> float:
    matrix = torch.randn(EIGEN_SIDE, EIGEN_SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = matrix @ matrix.T
    return EIGEN * EIGEN_SIDE**3 / _seconds(lambda: torch.linalg.eigh(matrix), clock)


def _seconds(turn: Callable[[], object], clock: Clock) -> float:
    """Of one turn."""
    turn()
    began, turns = clock(), 0
    while turns == 0 or clock() - began < SECONDS:
        turn()
        turns += 1
    return max((clock() - began) / turns, 1e-9)
