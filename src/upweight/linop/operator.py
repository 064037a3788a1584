"""A linear operator: a square matrix known by its products, closed under +, scale, .T and .damped.

Vectors are rows, so the product everything is built on is V ↦ V A for V of shape (k, p).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from upweight._typing import Float, Tensor


class LinearOperator(ABC):
    """A p × p matrix A. Symmetry is never assumed: it is a property the matrix declares."""

    @property
    @abstractmethod
    def size(self) -> int:
        """p."""

    @property
    @abstractmethod
    def symmetric(self) -> bool:
        """True when Aᵀ = A is known."""

    @abstractmethod
    def after(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """V ↦ V A."""

    @abstractmethod
    def transpose(self) -> LinearOperator:
        """Aᵀ."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "p p"]:
        """A, written out."""

    @property
    def T(self) -> LinearOperator:
        """Aᵀ, or A itself when it is symmetric."""
        return self if self.symmetric else self.transpose()

    def damped(self, damping: float) -> LinearOperator:
        """A + λI: damping is a node of its own, so that an inverse can report it."""
        return Damped(self, float(damping)) if damping else self

    def __rmatmul__(self, rows: Tensor) -> Tensor:
        """``V @ A`` for rows (k, p), or one vector (p,)."""
        return self.after(rows.reshape(-1, self.size)).reshape(rows.shape)

    def __matmul__(self, columns: Tensor) -> Tensor:
        """``A @ B`` for columns (p, k), or one vector (p,)."""
        return self.T.__rmatmul__(columns.T).T if columns.ndim == 2 else self.T.__rmatmul__(columns)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, other)

    def __mul__(self, factor: float) -> LinearOperator:
        return Scaled(self, float(factor))

    __rmul__ = __mul__


@dataclass(frozen=True)
class Damped(LinearOperator):
    """A + λI."""

    base: LinearOperator
    damping: float

    @property
    def size(self) -> int:
        return self.base.size

    @property
    def symmetric(self) -> bool:
        return self.base.symmetric

    def after(self, rows: Tensor) -> Tensor:
        return self.base.after(rows) + self.damping * rows

    def transpose(self) -> LinearOperator:
        return Damped(self.base.transpose(), self.damping)

    def dense(self) -> Tensor:
        matrix = self.base.dense().clone()
        matrix.diagonal().add_(self.damping)
        return matrix


@dataclass(frozen=True)
class Sum(LinearOperator):
    """A + B."""

    left: LinearOperator
    right: LinearOperator

    @property
    def size(self) -> int:
        return self.left.size

    @property
    def symmetric(self) -> bool:
        return self.left.symmetric and self.right.symmetric

    def after(self, rows: Tensor) -> Tensor:
        return self.left.after(rows) + self.right.after(rows)

    def transpose(self) -> LinearOperator:
        return Sum(self.left.T, self.right.T)

    def dense(self) -> Tensor:
        return self.left.dense() + self.right.dense()


@dataclass(frozen=True)
class Scaled(LinearOperator):
    """cA."""

    base: LinearOperator
    factor: float

    @property
    def size(self) -> int:
        return self.base.size

    @property
    def symmetric(self) -> bool:
        return self.base.symmetric

    def after(self, rows: Tensor) -> Tensor:
        return self.factor * self.base.after(rows)

    def transpose(self) -> LinearOperator:
        return Scaled(self.base.T, self.factor)

    def dense(self) -> Tensor:
        return self.factor * self.base.dense()
