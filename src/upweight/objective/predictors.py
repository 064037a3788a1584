"""Linear predictors η = W(θ)a that share one vector θ: an output's own columns, slopes in common, offsets."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from upweight._typing import Float, Int, Tensor
from upweight.space import ABSENT, FIXED, CellLayout


class Predictors(nn.Module):
    """η = W(θ)a, each cell of W a coordinate of θ, ABSENT (0) or FIXED (1); one output comes back as (b,).

    Args:
        theta: θ, (p,).
        cells: (o, i), what each cell of W holds.
    """

    def __init__(self, theta: Float[Tensor, "p"], cells: Int[Tensor, "o i"]) -> None:
        super().__init__()
        self.params = nn.Parameter(theta.clone())
        self.cells = cells
        self.layout = CellLayout(len(theta), tuple(tuple(row) for row in cells.tolist()))
        self.constant = (cells == FIXED).to(theta.dtype)

    @property
    def in_features(self) -> int:
        """i."""
        return self.cells.shape[1]

    @property
    def out_features(self) -> int:
        """o."""
        return self.cells.shape[0]

    def weight(self, theta: Float[Tensor, "p"]) -> Float[Tensor, "o i"]:
        """W(θ)."""
        return self.layout.matrix(theta.unsqueeze(0))[0] + self.constant.to(theta.dtype)

    def forward(self, input: Tensor) -> Tensor:
        outputs = F.linear(input, self.weight(self.params))
        return outputs.squeeze(1) if self.out_features == 1 else outputs


def columns(*widths: int | None) -> Int[Tensor, "o i"]:
    """Cells of outputs that have columns of their own, side by side; None is one column that is not estimated.

    ``columns(3)`` is one predictor of three columns, ``columns(3, 1)`` two predictors of three and of one, and
    ``columns(3, None)`` one predictor of three and an offset.
    """
    rows, start, place = [], 0, 0
    total = sum(1 if width is None else width for width in widths)
    for width in widths:
        if width is None:
            rows[-1][place] = FIXED
            place += 1
            continue
        row = torch.full((total,), ABSENT)
        row[place : place + width] = torch.arange(start, start + width)
        rows.append(row)
        start, place = start + width, place + width
    return torch.stack(rows)
