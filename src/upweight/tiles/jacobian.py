"""A tile of output Jacobians Jᵢ = ∂ηᵢ/∂θ, one an example, known by what can be done with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from upweight._typing import Float, Int, Tensor
from upweight.linop import LinearOperator
from upweight.tiles.blocks import Block

if TYPE_CHECKING:
    from upweight.tiles.layer_jacobians import LayerJacobian


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
