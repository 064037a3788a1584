"""Matrices that are written down: dense, diagonal, and the identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.linop.operator import LinearOperator


@dataclass(frozen=True)
class Dense(LinearOperator):
    """A matrix held whole."""

    matrix: Float[Tensor, "p p"]
    is_symmetric: bool = False

    @property
    def size(self) -> int:
        return self.matrix.shape[0]

    @property
    def symmetric(self) -> bool:
        return self.is_symmetric

    def after(self, rows: Tensor) -> Tensor:
        return rows.to(self.matrix.dtype) @ self.matrix  # (k, p)

    def transpose(self) -> LinearOperator:
        return Dense(self.matrix.T, self.is_symmetric)

    def dense(self) -> Tensor:
        return self.matrix


@dataclass(frozen=True)
class Diagonal(LinearOperator):
    """A diagonal matrix, held as its diagonal."""

    entries: Float[Tensor, "p"]

    @property
    def size(self) -> int:
        return self.entries.shape[0]

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        return rows * self.entries  # (k, p)

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return torch.diag(self.entries)


@dataclass(frozen=True)
class Identity(LinearOperator):
    """I: the curvature of the gradient dot product."""

    width: int

    @property
    def size(self) -> int:
        return self.width

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        return rows

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return torch.eye(self.width, dtype=torch.float64)
