"""The largest and the smallest k of every query over blocks of scores that are never held together.

Equal scores are ranked by row, so that no answer depends on how the rows were cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from upweight._typing import Bool, Float, Int, Tensor


@dataclass
class Largest:
    """The k largest of what has been seen, for each of m queries; blocks come in the order of their rows.

    Attributes:
        values, rows: (m, k or fewer), in falling order.
    """

    k: int
    values: Float[Tensor, "m x"] = field(default_factory=lambda: torch.empty(0, 0))
    rows: Int[Tensor, "m x"] = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))

    def add(self, scores: Float[Tensor, "m b"], rows: Int[Tensor, "b"]) -> None:
        """Take in a block; a score of −∞ never counts."""
        if not scores.shape[1]:
            return
        if not self.values.numel():
            self.values, self.rows = scores.new_empty(len(scores), 0), rows.new_empty(len(scores), 0)
        if self.values.shape[1] == self.k and not bool((scores.amax(1) > self.values[:, -1]).any()):
            return
        where = first_of_largest(scores, min(self.k, scores.shape[1]))  # (m, j), in rising order of rows
        values = torch.cat([self.values, scores.gather(1, where)], 1)
        found = torch.cat([self.rows, rows[where]], 1)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        self.values, self.rows = values.gather(1, order), found.gather(1, order)

    @property
    def worst(self) -> Float[Tensor, "m"]:
        """The k-th largest so far: what a later score must exceed; −∞ while there are fewer."""
        if self.values.shape[1] < self.k:
            return self.values.new_full((len(self.values),), -torch.inf)
        return self.values[:, -1]


def first_of_largest(scores: Float[Tensor, "m b"], k: int) -> Int[Tensor, "m k"]:
    """Where the k largest of every row are, in rising order; of equal ones the first."""
    least = scores.topk(k, 1).values[:, -1:]
    over, even = scores > least, scores == least
    wanted = k - over.sum(1, keepdim=True)
    if bool((even.sum(1, keepdim=True) > wanted).any()):
        even &= even.cumsum(1) <= wanted
    return (over | even).nonzero()[:, 1].view(len(scores), k)


@dataclass
class Ends:
    """Both ends of every query's ranking."""

    top: Largest
    bottom: Largest

    @classmethod
    def of(cls, k: int) -> Ends:
        """Nothing seen yet."""
        return cls(Largest(k), Largest(k))

    def add(
        self,
        scores: Float[Tensor, "m b"],
        rows: Int[Tensor, "b"],
        gone: Bool[Tensor, "b"] | None = None,
        radius: Float[Tensor, "m b"] | float = 0.0,
    ) -> None:
        """Take in a block, each score less certain by ``radius``; rows that are gone never count."""
        high, low = scores - radius, -scores - radius
        if gone is not None:
            high, low = high.masked_fill(gone, -torch.inf), low.masked_fill(gone, -torch.inf)
        self.top.add(high, rows)
        self.bottom.add(low, rows)

    def rows(self) -> Int[Tensor, "x"]:
        """Every row at either end of any query."""
        return torch.cat([self.top.rows.flatten(), self.bottom.rows.flatten()]).unique()
