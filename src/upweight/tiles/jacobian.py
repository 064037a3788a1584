"""A tile of output Jacobians Jᵢ = ∂ηᵢ/∂θ, one an example, and its part that belongs to one layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch

from upweight._typing import Float, Int, Tensor
from upweight.linop import LinearOperator
from upweight.space import Layout
from upweight.tiles.blocks import Block, LayerBlock


class Jacobian(ABC):
    """A tile of output Jacobians Jᵢ = ∂ηᵢ/∂θ, each (o, p)."""

    @abstractmethod
    def __len__(self) -> int:
        """b."""

    @abstractmethod
    def vjp(self, outputs: Float[Tensor, "b o"]) -> Block:
        """The rows Jᵢᵀuᵢ."""

    @abstractmethod
    def pulled(self, slopes: list[Float[Tensor, "b o"]]) -> tuple[LayerJacobian, ...]:
        """The rows Jᵢᵀu for several u, layer by layer: what curvature is made of."""

    @abstractmethod
    def jvp(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "b o k"]:
        """The first-order shift of every output under each of k moves of θ."""

    def pull_sum(self, outputs: Float[Tensor, "b o k"]) -> Float[Tensor, "k p"]:
        """Σᵢ Jᵢᵀuᵢ for each of k sets of u: the transpose of ``jvp``."""
        ones = outputs.new_ones(len(self))
        return torch.stack([self.vjp(u.contiguous()).sum(ones) for u in outputs.unbind(2)])

    @abstractmethod
    def sandwich(self, operator: LinearOperator) -> Float[Tensor, "b o o"]:
        """Jᵢ A Jᵢᵀ."""

    @abstractmethod
    def add_gram(self, curvature: Float[Tensor, "b o o"], total: Float[Tensor, "p p"]) -> None:
        """Add Σ Jᵢᵀ Mᵢ Jᵢ, M symmetric, to a p × p matrix in place."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "b o p"]:
        """The Jacobians, written out."""

    @abstractmethod
    def select(self, chosen: Int[Tensor, "k"]) -> Jacobian:
        """Some of the examples."""


class LayerJacobian(Jacobian):
    """The part of J that belongs to one layer, from the slopes ∂η/∂(layer's outputs), (b, o, ...).

    A layer brings two things of its own: the rows Jᵀu, and how some of its examples are picked. What else
    a Jacobian does is done one output at a time on those rows.
    """

    slopes: Tensor
    layout: Layout

    @abstractmethod
    def vjp(self, outputs: Float[Tensor, "b o"]) -> LayerBlock:
        """The rows Jᵢᵀuᵢ."""

    @abstractmethod
    def select(self, chosen: Int[Tensor, "k"]) -> Jacobian:
        """Some of the examples."""

    def __len__(self) -> int:
        return len(self.slopes)

    def jvp(self, rows: Tensor) -> Tensor:
        return torch.stack([block.against(rows) for block in self._by_output()], 1)  # (b, o, k)

    def dense(self) -> Tensor:
        return torch.stack([block.dense() for block in self._by_output()], 1)  # (b, o, p)

    def sandwich(self, operator: LinearOperator) -> Tensor:
        return dense_sandwich(self.dense(), operator)

    def add_gram(self, curvature: Tensor, total: Tensor) -> None:
        add_dense_gram(self.dense(), curvature, total)

    def pulled(self, slopes: list[Tensor]) -> tuple[LayerJacobian, ...]:
        return (replace(self, slopes=torch.stack([self.mixed(u) for u in slopes], 1)),)  # pyright: ignore

    def mixed(self, outputs: Float[Tensor, "b o"]) -> Tensor:
        """Σ_o u_o · slopes of output o."""
        return torch.einsum("bo,bo...->b...", outputs.to(self.slopes.dtype), self.slopes)

    def _by_output(self) -> list[Block]:
        eye = torch.eye(self.slopes.shape[1], dtype=self.slopes.dtype, device=self.slopes.device)
        return [self.vjp(unit.expand(len(self), -1)) for unit in eye]


def dense_sandwich(values: Float[Tensor, "b o p"], operator: LinearOperator) -> Float[Tensor, "b o o"]:
    """J A Jᵀ from J written out."""
    moved = values.flatten(0, 1).double() @ operator
    return moved.view(values.shape) @ values.to(moved.dtype).mT


def add_dense_gram(values: Float[Tensor, "b o p"], curvature: Tensor, total: Float[Tensor, "p p"]) -> None:
    """Add Σ JᵢᵀMᵢJᵢ from J written out, in place."""
    values = values.to(total.dtype)
    total += values.flatten(0, 1).T @ (curvature.to(total.dtype) @ values).flatten(0, 1)
