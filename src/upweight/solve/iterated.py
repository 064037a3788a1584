"""What every iterative inverse of a symmetric matrix shares: all it can do is solve."""

from __future__ import annotations

from abc import abstractmethod

import torch

from upweight._typing import Float, Tensor
from upweight.linop import LinearOperator
from upweight.solve.direct import Inverse
from upweight.solve.verdict import Solution


class Iterated(Inverse):
    """A⁻¹ known by solves with a symmetric A; ``exact`` is the A by which residuals are measured."""

    exact: LinearOperator

    @abstractmethod
    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        """V A⁻¹ with the verdict on these very rows."""

    @property
    def size(self) -> int:
        return self.exact.size

    @property
    def symmetric(self) -> bool:
        return True

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return self.after(torch.eye(self.size, dtype=torch.float64))

    def after(self, rows: Tensor) -> Tensor:
        return self.solve(rows).rows
