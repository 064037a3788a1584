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

WINDOW, FLAT = 20, 1e-6
"""A member whose value fell by less than this share of its whole fall in so many steps has settled: at a kink, as networks of
ReLU have them, the gradient never vanishes."""

PATIENCE, PROGRESS = 100, 0.7
"""A descent none of whose members still moving has brought its gradient below this share in so many steps is given up."""

HALVINGS = 20
ARMIJO = 1e-4

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(points (k, p), which members (k,)) → values (k,) and gradients (k, p)."""


@dataclass(frozen=True)
class Descended:
    """Where the members ended, their gradients' norms there, which have settled by value alone, and the iterations taken."""

    points: Float[Tensor, "k p"]
    norms: Float[Tensor, "k"]
    settled: Bool[Tensor, "k"]
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
        if self.steps:
            s, y = self.steps[-1], self.changes[-1]
            found, bent = precondition(torch.cat([found, y])).tensor_split(2)
            scale = _dot(s, y) * _reciprocal(_dot(y, bent))
            found = found * torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]
        else:
            found = precondition(found)
        for s, y, inverse, share in reversed(kept):
            found = found + (share - inverse * _dot(y, found))[:, None] * s
        return found


def descend(
    evaluate: Evaluate,
    start: Float[Tensor, "k p"],
    precondition: Callable[[Tensor], Tensor],
    goals: Float[Tensor, "k"],
    iterations: int,
    tell: Callable[[float], None] = lambda left: None,
) -> Descended:
    """Minimise every member until its gradient's norm is at most its goal, it has settled, or the iterations run out.

    Args:
        tell: told after every step by how much the gradients still exceed their goals, at worst.
    """
    members = torch.arange(len(start))
    points, (values, gradients) = start.clone(), evaluate(start, members)
    pairs, history, settled = _Pairs(), [values], torch.zeros(len(start), dtype=torch.bool, device=start.device)
    least = [gradients.norm(dim=1)]
    for _ in range(iterations):
        moving = (gradients.norm(dim=1) > goals) & ~settled
        if not bool(moving.any()) or _stalled(least, moving):
            break
        direction = pairs.direction(gradients, precondition)
        slopes = _dot(direction, gradients)
        uphill = (slopes >= 0) & moving
        if bool(uphill.any()):
            direction = torch.where(uphill[:, None], -precondition(gradients), direction)
            slopes = _dot(direction, gradients)
        found = _searched(evaluate, points, values, gradients, direction, slopes, moving)
        pairs.add(found[0] - points, found[2] - gradients)
        points, values, gradients = found
        history.append(values)
        norms = gradients.norm(dim=1)
        least.append(torch.minimum(least[-1], norms))
        tell(float(torch.where(settled, 0.0, norms / goals.clamp_min(torch.finfo(norms.dtype).tiny)).max()))
        settled = settled | _settled(history)
    norms = gradients.norm(dim=1)
    return Descended(points, norms, settled & (norms > goals), len(history) - 1)


def _stalled(least: list[Tensor], moving: Bool[Tensor, "k"]) -> bool:
    """Whether every member still moving has had its least gradient for long."""
    if len(least) <= PATIENCE:
        return False
    return bool((least[-1] > PROGRESS * least[-1 - PATIENCE])[moving].all())


def _settled(history: list[Tensor]) -> Bool[Tensor, "k"]:
    """Whose values no longer fall."""
    if len(history) <= WINDOW:
        return torch.zeros_like(history[0], dtype=torch.bool)
    return history[-1 - WINDOW] - history[-1] <= FLAT * (history[0] - history[-1])


def _searched(
    evaluate: Evaluate,
    points: Tensor,
    values: Tensor,
    gradients: Tensor,
    direction: Tensor,
    slopes: Tensor,
    moving: Bool[Tensor, "k"],
) -> tuple[Tensor, Tensor, Tensor]:
    """The first halving of each member's step that lowers its value enough, or its gradient; the point itself where none does."""
    points, values, gradients = points.clone(), values.clone(), gradients.clone()
    left: Int[Tensor, "x"] = moving.nonzero().squeeze(1)
    length = 1.0
    for _ in range(HALVINGS):
        tried = points[left] + length * direction[left]
        value, gradient = evaluate(tried, left)
        lower = value <= values[left] + ARMIJO * length * slopes[left]
        good = lower | (gradient.norm(dim=1) < 0.5 * gradients[left].norm(dim=1))
        done = left[good]
        points[done], values[done], gradients[done] = tried[good], value[good], gradient[good]
        left, length = left[~good], length / 2
        if not len(left):
            break
    return points, values, gradients


def _dot(a: Float[Tensor, "k p"], b: Float[Tensor, "k p"]) -> Float[Tensor, "k"]:
    return torch.einsum("kp,kp->k", a, b)


def _reciprocal(values: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """1/v, zero where v is not above zero."""
    return torch.where(values > 0, 1 / values.clamp_min(torch.finfo(values.dtype).tiny), torch.zeros_like(values))
