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
        o, i = len(self.left), len(self.right)
        moved = self.left @ _outputs_first(rows.to(self.left.dtype), o, i).flatten(1)  # (o, k·i)
        return _rows_first((moved.view(-1, i) @ self.right).view(o, -1, i))

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
        o, i = self.values.shape
        moved = self.left.T @ _outputs_first(rows.to(self.values.dtype), o, i).flatten(1)  # (o, k·i)
        return self._back((moved.view(-1, i) @ self.right).view(o, -1, i) * self.values.unsqueeze(1))

    def after_turned(self, matrices: Float[Tensor, "k o i"]) -> Float[Tensor, "k q"]:
        """The same for rows that are in the eigenbasis already: Λ, and out of it."""
        return self._back(matrices.transpose(0, 1).mul(self.values.unsqueeze(1)).contiguous())

    def _back(self, turned: Float[Tensor, "o k i"]) -> Float[Tensor, "k q"]:
        o, i = self.values.shape
        back = (turned.view(-1, i) @ self.right.T).view(o, -1)
        return _rows_first((self.left @ back).view(o, -1, i))

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        basis = torch.kron(self.left, self.right)
        return (basis * self.values.flatten()) @ basis.T


def _outputs_first(rows: Float[Tensor, "k q"], o: int, i: int) -> Float[Tensor, "o k i"]:
    """Matrices laid flat, side by side along k: each factor is then one large product, and no factor is copied k times."""
    return rows.view(-1, o, i).transpose(0, 1).contiguous()


def _rows_first(matrices: Float[Tensor, "o k i"]) -> Float[Tensor, "k q"]:
    """The way back."""
    return matrices.transpose(0, 1).flatten(1)
