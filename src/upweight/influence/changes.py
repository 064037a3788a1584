"""A change of the objective, to second order in the outputs, and the Newton step that answers it.

A tile of k changes moves the estimating equation and its Jacobian by

    Δψ = Jᵀa + ρ∇r + rest,    ΔH = JᵀMJ + ρ∇²r,    δ = −[H + ΔH]⁻¹ Δψ    [KL17 A7]

    question            a              M              ρ (fixed_mean; fixed_total: 0)
    drop i              −wᵢ∇_ηℓᵢ       −wᵢΛᵢ          −wᵢ/Σw
    add z               w∇_ηℓ          wΛ             w/Σw
    relabel i           wᵢ(∇′ − ∇)     wᵢ(Λ′ − Λ)     0
    replace i           both of the above, with J of the old and of the new input stacked

`rest` is what does not pass through the outputs; it is zero but for `estimand="newton"` on a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from upweight._typing import Bool, Float, Int, Tensor
from upweight.linop import LinearOperator
from upweight.tiles import Block, Jacobian

MARGIN = 1e-9
"""An eigenvalue of −MA this close to 1 (a leverage of 1) leaves nothing of the retained data to solve with."""


@dataclass(frozen=True)
class Changes:
    """k changes of the objective, each through the outputs of its own example.

    Attributes:
        bend: M, formed only when it is asked for: first-order answers need none, and it is o × o an example.
    """

    jacobian: Jacobian
    push: Float[Tensor, "k o"]
    bend: Callable[[], Float[Tensor, "k o o"]]
    share: float = 0.0
    rest: Float[Tensor, "k p"] | None = None

    @cached_property
    def curvature(self) -> Float[Tensor, "k o o"]:
        """M."""
        return self.bend()

    def moved(self, pending: Float[Tensor, "p"]) -> Changes:
        """The same changes against H's pending Newton step s: Δψ − ΔH s, for `estimand="newton"`."""
        along = self.jacobian.jvp(pending.unsqueeze(0)).squeeze(2)  # (k, o)
        return replace(self, push=self.push - _times(self.curvature, along))

    def select(self, chosen: Int[Tensor, "j"]) -> Changes:
        """Some of the changes."""
        rest = None if self.rest is None else self.rest[chosen]
        return Changes(
            self.jacobian.select(chosen), self.push[chosen], lambda: self.curvature[chosen], self.share, rest
        )

    def block(self, push: Float[Tensor, "k o"] | None = None) -> Block:
        """The rows Jᵀa, or Jᵀu for another push u."""
        return self.jacobian.vjp(self.push if push is None else push)


@dataclass(frozen=True)
class Correction:
    """The push u with δ = −P(Jᵀu + ρ pull), and where it could not be had."""

    push: Float[Tensor, "k o"]
    refused: Bool[Tensor, "k"]


def corrected(changes: Changes, inverse: LinearOperator, pull: Float[Tensor, "p"] | None = None) -> Correction:
    """Solve (I + M A) u = a − M e for every change, with A = J P Jᵀ and e = J P(ρ pull + rest).

    From (P⁻¹ + JᵀMJ) δ = −(Jᵀa + ρ pull + rest), where P⁻¹ = H + ρ∇²r: an o × o solve a change. With
    one output and a drop this is u = a / (1 − h), h the leverage.

    Args:
        inverse: P, for this tile's ρ.
        pull: ∇r, or ∇r − ∇²r s; None where ρ = 0.

    Returns:
        The corrected push. Where an eigenvalue of −MA reaches 1 the refit does not exist to this
        approximation: the plain push is kept there and the change is marked refused.
    """
    coupling = changes.jacobian.sandwich(inverse)  # A, (k, o, o)
    target = changes.push.to(coupling.dtype)
    curvature = changes.curvature.to(coupling.dtype)
    extra = _extra(changes, inverse, pull)
    if extra is not None:
        target = target - _times(curvature, extra.to(coupling.dtype))
    system = torch.eye(coupling.shape[1], dtype=coupling.dtype, device=coupling.device) + curvature @ coupling
    refused = _unsolvable(system)
    if refused.any():
        system = torch.where(
            refused[:, None, None], torch.eye(coupling.shape[1], dtype=coupling.dtype, device=coupling.device), system
        )
        target = torch.where(refused[:, None], changes.push.to(coupling.dtype), target)
    push = target / system[:, 0] if system.shape[1] == 1 else torch.linalg.solve(system, target)
    return Correction(push, refused)


def _extra(changes: Changes, inverse: LinearOperator, pull: Tensor | None) -> Tensor | None:
    """J P(ρ pull + rest), (k, o)."""
    found = None
    if pull is not None and changes.share:
        found = changes.share * changes.jacobian.jvp((pull @ inverse.T).unsqueeze(0)).squeeze(2)
    if changes.rest is not None:
        moved = changes.rest @ inverse.T
        own = torch.einsum("kop,kp->ko", changes.jacobian.dense().to(moved.dtype), moved)
        found = own if found is None else found + own
    return found


def _unsolvable(system: Float[Tensor, "k o o"]) -> Bool[Tensor, "k"]:
    """Where I + MA has an eigenvalue at or below zero; only tiles far from I are looked at closely."""
    if system.shape[1] == 1:
        return system[:, 0, 0] <= MARGIN
    distance = (system - torch.eye(system.shape[1], dtype=system.dtype, device=system.device)).flatten(1).norm(dim=1)
    refused = torch.zeros(len(system), dtype=torch.bool, device=system.device)
    suspects = distance >= 1 - MARGIN
    if suspects.any():
        refused[suspects] = torch.linalg.eigvals(system[suspects]).real.amin(1) <= MARGIN
    return refused


def _times(matrices: Float[Tensor, "k o o"], vectors: Float[Tensor, "k o"]) -> Float[Tensor, "k o"]:
    return (matrices.to(vectors.dtype) @ vectors.unsqueeze(2)).squeeze(2)
