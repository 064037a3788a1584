"""An n × p matrix read as tiles, and its transpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.linop import LinearOperator, Projection
from upweight.tiles.blocks import Block
from upweight.tiles.compressed import project


@dataclass(frozen=True)
class Rows:
    """An n × p matrix read as tiles: what a gradient pass yields, measurement and change alike."""

    count: int
    size: int
    tiles: Callable[[], Iterator[Block]]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, p)."""
        return self.count, self.size

    def dense(self) -> Float[Tensor, "n p"]:
        """The rows, written out."""
        return torch.cat([block.dense() for block in self.tiles()])

    def __matmul__(self, operator: LinearOperator | Projection) -> Float[Tensor, "n x"]:
        """``T @ A``, or the few numbers ``T @ C`` that a projection keeps of every row."""
        if isinstance(operator, Projection):
            return torch.cat([project(block, operator) for block in self.tiles()])
        return torch.cat([block.dense() @ operator for block in self.tiles()])

    def lengths(self) -> Float[Tensor, "n"]:
        """‖row‖ of every row, none of them written out."""
        return torch.cat([block.squared_norms() for block in self.tiles()]).sqrt()

    @property
    def T(self) -> Columns:
        """The p × n transpose, for the right of a product."""
        return Columns(self)


@dataclass(frozen=True)
class Columns:
    """The transpose of Rows."""

    source: Rows

    def __rmatmul__(self, rows: Float[Tensor, "m p"]) -> Float[Tensor, "m n"]:
        """``V @ C.T``."""
        return torch.cat([block.against(rows) for block in self.source.tiles()]).T
