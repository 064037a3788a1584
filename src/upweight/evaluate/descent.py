"""Several smooth functions of θ minimised side by side: preconditioned L-BFGS, every member with its own steps.

One call evaluates all members that are still moving, so that a network reads its data once for them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from upweight._typing import Bool, Float, Int, Tensor

MEMORY = 10
"""Pairs of steps and gradient changes that are remembered."""

HALVINGS = 20
ARMIJO = 1e-4

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(points (k, p), which members (k,)) → values (k,) and gradients (k, p)."""


@dataclass(frozen=True)
class Descended:
    """Where the members ended, their gradients' norms there, and the iterations taken."""

    points: Float[Tensor, "k p"]
    norms: Float[Tensor, "k"]
    iterations: int


@dataclass
class _Pairs:
    """s = θ⁺ − θ and y = g⁺ − g of every member, the last few; a pair without curvature is left out of the sums."""

    steps: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)

    def add(self, step: Tensor, change: Tensor) -> None:
        self.steps, self.changes = [*self.steps, step][-MEMORY:], [*self.changes, change][-MEMORY:]

    def direction(self, gradient: Float[Tensor, "k p"], precondition: Callable[[Tensor], Tensor]) -> Tensor:
        """−H g by the two loops, H₀ the preconditioner on the scale of the last pair."""
        found, kept = -gradient, []
        for s, y in zip(reversed(self.steps), reversed(self.changes), strict=True):
            inverse = _reciprocal(_dot(s, y))
            share = inverse * _dot(s, found)
            found = found - share[:, None] * y
            kept.append((s, y, inverse, share))
        found = precondition(found)
        if self.steps:
            s, y = self.steps[-1], self.changes[-1]
            scale = _dot(s, y) * _reciprocal(_dot(y, precondition(y)))
            found = found * torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]
        for s, y, inverse, share in reversed(kept):
            found = found + (share - inverse * _dot(y, found))[:, None] * s
        return found


def descend(
    evaluate: Evaluate,
    start: Float[Tensor, "k p"],
    precondition: Callable[[Tensor], Tensor],
    goals: Float[Tensor, "k"],
    iterations: int,
) -> Descended:
    """Minimise every member until its gradient's norm is at most its goal, or the iterations run out."""
    members = torch.arange(len(start))
    points, (values, gradients) = start.clone(), evaluate(start, members)
    pairs, taken = _Pairs(), 0
    while taken < iterations:
        moving = gradients.norm(dim=1) > goals
        if not bool(moving.any()):
            break
        direction = pairs.direction(gradients, precondition)
        slopes = _dot(direction, gradients)
        uphill = (slopes >= 0) & moving
        if bool(uphill.any()):
            direction = torch.where(uphill[:, None], -precondition(gradients), direction)
            slopes = _dot(direction, gradients)
        found = _searched(evaluate, points, values, gradients, direction, slopes, moving)
        if found is None:
            break
        pairs.add(found[0] - points, found[2] - gradients)
        points, values, gradients = found
        taken += 1
    return Descended(points, gradients.norm(dim=1), taken)


def _searched(
    evaluate: Evaluate,
    points: Tensor,
    values: Tensor,
    gradients: Tensor,
    direction: Tensor,
    slopes: Tensor,
    moving: Bool[Tensor, "k"],
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The first halving of each member's step that lowers its value enough, or its gradient; None where none does."""
    points, values, gradients = points.clone(), values.clone(), gradients.clone()
    left: Int[Tensor, "x"] = moving.nonzero().squeeze(1)
    length, moved = 1.0, False
    for _ in range(HALVINGS):
        tried = points[left] + length * direction[left]
        value, gradient = evaluate(tried, left)
        lower = value <= values[left] + ARMIJO * length * slopes[left]
        good = lower | (gradient.norm(dim=1) < 0.5 * gradients[left].norm(dim=1))
        done = left[good]
        points[done], values[done], gradients[done] = tried[good], value[good], gradient[good]
        moved = moved or bool(good.any())
        left, length = left[~good], length / 2
        if not len(left):
            break
    return (points, values, gradients) if moved else None


def _dot(a: Float[Tensor, "k p"], b: Float[Tensor, "k p"]) -> Float[Tensor, "k"]:
    return torch.einsum("kp,kp->k", a, b)


def _reciprocal(values: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """1/v, zero where v is not above zero."""
    return torch.where(values > 0, 1 / values.clamp_min(torch.finfo(values.dtype).tiny), torch.zeros_like(values))
