"""Kronecker products, on matrices laid flat: V ↦ LVR for V of shape (o, i), and the same in an eigenbasis."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.linop.operator import LinearOperator


@dataclass(frozen=True)
class Kronecker(LinearOperator):
    """L ⊗ R for symmetric L (o, o) and R (i, i)."""

    left: Float[Tensor, "o o"]
    right: Float[Tensor, "i i"]

    @property
    def size(self) -> int:
        return len(self.left) * len(self.right)

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        matrices = rows.view(len(rows), len(self.left), len(self.right)).to(self.left.dtype)
        return (self.left @ (matrices @ self.right)).flatten(1)

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return torch.kron(self.left, self.right)


@dataclass(frozen=True)
class KroneckerEigen(LinearOperator):
    """(Q_L ⊗ Q_R) diag(Λ) (Q_L ⊗ Q_R)ᵀ, eigenvectors in columns, Λ of shape (o, i)."""

    left: Float[Tensor, "o o"]
    right: Float[Tensor, "i i"]
    values: Float[Tensor, "o i"]

    @property
    def size(self) -> int:
        return self.values.numel()

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        matrices = rows.view(len(rows), *self.values.shape).to(self.values.dtype)
        turned = (self.left.T @ (matrices @ self.right)) * self.values
        return (self.left @ (turned @ self.right.T)).flatten(1)

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        basis = torch.kron(self.left, self.right)
        return (basis * self.values.flatten()) @ basis.T
