"""The average of many easy inverses in place of the inverse of an average."""

from __future__ import annotations

from dataclasses import dataclass

from upweight._typing import Float, Tensor
from upweight.linop import LinearOperator


@dataclass(frozen=True)
class AveragedInverse(LinearOperator):
    """Σᵢ wᵢ(gᵢgᵢᵀ + λI)⁻¹ = [Σw·I − Σᵢ wᵢgᵢgᵢᵀ/(λ + ‖gᵢ‖²)]/λ by Sherman and Morrison's formula.

    Attributes:
        rows: gᵢ.
        weights: wᵢ, which should add up to one.
        damping: λ > 0.

    Error and cost:
        Not (Σ wᵢgᵢgᵢᵀ + λI)⁻¹, and further from it the more the gᵢ differ: no bound. 4·n·q a row.
    """

    rows: Float[Tensor, "n q"]
    weights: Float[Tensor, "n"]
    damping: float

    @property
    def size(self) -> int:
        return self.rows.shape[1]

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        shares = self.weights / (self.damping + self.rows.square().sum(1))
        return (self.weights.sum() * rows - ((rows @ self.rows.T) * shares) @ self.rows) / self.damping

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return self.after(self.rows.new_ones(self.size).diag())
