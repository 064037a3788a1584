"""The rows an index holds, read block by block from its shards: one matrix product a block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from upweight._typing import Bool, Float, Int, Tensor
from upweight.index.rounding import Rounding
from upweight.router import chunk
from upweight.store import Store
from upweight.store.shards import Shard

BLOCK_BYTES = 2**22
"""A block of rows once it is in float32: large enough for an efficient product, small enough to stay in cache."""

LEAST_ROWS = 128
"""Rows of a block; where they are too long for the cache together, a product goes through their columns in turn."""


ROWWISE = ("rows", "scale", "tail", "rounded", "own")
"""Arrays of a shard that have one entry a row."""


@dataclass(frozen=True)
class Sought:
    """Queries as a block of rows meets them.

    Attributes:
        rows: x, with the typical sizes taken in.
        constant: κ.
        tails, length: ‖what each layer leaves out of x‖ and ‖x‖, for bounds.
        error: a bound of √(rᵀH⁻¹r), zero where x is exact.
        pull: of the penalty's part of a change, in H⁻¹.
    """

    rows: Float[Tensor, "m r"]
    constant: Float[Tensor, "m"]
    tails: Float[Tensor, "m x"] | None = None
    length: Float[Tensor, "m"] | None = None
    error: Float[Tensor, "m"] | None = None
    pull: float = 0.0


@dataclass(frozen=True)
class Held:
    """The shards of an index, what each row weighs, and which rows are gone.

    Attributes:
        weights: wᵢ of every row, those of appended rows included.
        gone: deleted rows.
    """

    store: Store
    shards: tuple[Shard, ...]
    rounding: Rounding
    weights: Float[Tensor, "n"]
    gone: Bool[Tensor, "n"]

    @property
    def count(self) -> int:
        """Rows, deleted ones included."""
        return len(self.weights)

    def scores(self, sought: Sought) -> Iterator[tuple[Int[Tensor, "b"], Float[Tensor, "m b"], Float[Tensor, "m b"]]]:
        """Row numbers, effects and how far each may be off, block by block in the order of the rows; 0 without bounds."""
        wide = sought.rows.new_empty(max(BLOCK_BYTES // 4, 8 * self._block))  # memory anew would be paged in anew
        for rows, arrays in self._blocks():
            products = self._products(sought.rows, arrays["rows"], wide)
            if self.rounding.scaled:
                products *= torch.from_numpy(arrays["scale"]).to(products.dtype)
            weights = self.weights[int(rows[0]) : int(rows[-1]) + 1]
            effects = (products.double() + sought.constant[:, None]) * weights
            yield rows, effects, weights * self._radius(sought, arrays, products)

    def _products(self, queries: Float[Tensor, "m r"], stored: np.ndarray, wide: Tensor) -> Float[Tensor, "m b"]:
        """⟨x, what is stored⟩, as many columns at a time as fit into the buffer."""
        b, r = len(stored), queries.shape[1]
        size = max(8, len(wide) // self._block // 8 * 8)
        total = queries.new_zeros(len(queries), b)
        for start in range(0, r, size):
            stop = min(start + size, r)
            held = wide[: b * (stop - start)].view(b, -1).copy_(self.rounding.numbers(stored, start, stop))
            total.addmm_(queries[:, start:stop], held.T)
        return total

    def _radius(self, sought: Sought, arrays: dict[str, np.ndarray], products: Tensor) -> Tensor:
        """|x̂·gᵢ − what was computed| + ‖r‖·‖gᵢ‖ in H⁻¹; infinite where nothing was recorded."""
        if sought.tails is None or sought.length is None or sought.error is None:
            return products.new_zeros((), dtype=torch.float64)
        if "tail" not in arrays:
            return products.new_full(products.shape, torch.inf, dtype=torch.float64)
        found = sought.tails @ torch.from_numpy(arrays["tail"]).double().T
        found += sought.length[:, None] * torch.from_numpy(arrays["rounded"]).double()
        summed = torch.finfo(sought.rows.dtype).eps * sought.rows.shape[1]
        found += summed * sought.rows.double().norm(dim=1, keepdim=True) * _norms(arrays)
        if "own" in arrays:
            found += sought.error[:, None] * (torch.from_numpy(arrays["own"]).double() + sought.pull)
        return found

    @property
    def _block(self) -> int:
        return max(LEAST_ROWS, chunk(max(1, len(self.rounding.typical)), 4, BLOCK_BYTES))

    def _blocks(self) -> Iterator[tuple[Int[Tensor, "b"], dict[str, np.ndarray]]]:
        size = self._block
        for shard in self.shards:
            with self.store.mapped(shard) as arrays:
                for start in range(0, shard.stop - shard.start, size):
                    stop = min(start + size, shard.stop - shard.start)
                    rows = torch.arange(shard.start + start, shard.start + stop)
                    yield rows, {name: array[start:stop] for name, array in arrays.items() if name in ROWWISE}


def _norms(arrays: dict[str, np.ndarray]) -> Float[Tensor, "b"]:
    """‖what is stored of a row‖, with its scale: what rounding of a sum is in proportion to."""
    lengths = np.linalg.norm(arrays["rows"].astype(np.float32), axis=1).astype(np.float64)
    return torch.from_numpy(lengths * arrays["scale"] if "scale" in arrays else lengths)
