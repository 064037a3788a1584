"""A block-diagonal matrix: one operator for every part of θ, each in its own order of coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.linop.operator import LinearOperator
from upweight.space import Layout


@dataclass(frozen=True)
class BlockDiagonal(LinearOperator):
    """Blocks on disjoint parts of θ; what no block covers is multiplied by zero.

    Attributes:
        parts: where each block lies, and the block, which acts on that part's own coordinates.
    """

    width: int
    parts: tuple[tuple[Layout, LinearOperator], ...]

    @property
    def size(self) -> int:
        return self.width

    @property
    def symmetric(self) -> bool:
        return all(block.symmetric for _, block in self.parts)

    def after(self, rows: Tensor) -> Tensor:
        found = torch.zeros_like(rows)
        for layout, block in self.parts:
            layout.scatter(block.after(layout.gather(rows)).to(found.dtype), found)
        return found

    def transpose(self) -> LinearOperator:
        return BlockDiagonal(self.width, tuple((layout, block.T) for layout, block in self.parts))

    def damped(self, damping: float) -> LinearOperator:
        """Every block with the same λ."""
        return BlockDiagonal(self.width, tuple((layout, block.damped(damping)) for layout, block in self.parts))

    def dense(self) -> Float[Tensor, "p p"]:
        eye = torch.eye(self.width, dtype=torch.float64)
        return self.after(eye)
