"""Numbers in fewer bytes: 16-bit floats and 8-bit integers, each row on a scale of its own.

    stored = round(v / (s ∘ c)),   s_j the typical size of number j, c the row's largest |v/s| (over 127 for integers)

s goes to the query's side, so that a block of rows meets the queries in one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from upweight._typing import Float, Tensor

STEPS = 127.0
"""Of an 8-bit integer on each side of zero."""

FLOOR = 1e-3
"""Of the typical size over all numbers: what number j is taken to be at least, so that a rare one keeps its place."""


@dataclass(frozen=True)
class Rounding:
    """How compressed rows are written in a type.

    Attributes:
        dtype: 'float64', 'float32', 'float16' or 'int8'.
        typical: s, the typical size of every number; ones where they are written as they are.
    """

    dtype: str
    typical: Float[Tensor, "r"]

    @classmethod
    def of(cls, dtype: str, sample: Float[Tensor, "b r"]) -> Rounding:
        """Typical sizes are root mean squares over a sample."""
        if dtype not in ("float16", "int8"):
            return cls(dtype, torch.ones(sample.shape[1], dtype=sample.dtype))
        squares = sample.double().square().mean(0)
        level = FLOOR**2 * float(squares.mean()) or 1.0
        return cls(dtype, (squares + level).sqrt().to(sample.dtype))

    @property
    def scaled(self) -> bool:
        """True where every row has a scale of its own."""
        return self.dtype in ("float16", "int8")

    def encode(self, rows: Float[Tensor, "b r"]) -> dict[str, np.ndarray]:
        """Rows as they are stored, with their scales."""
        if not self.scaled:
            return {"rows": rows.cpu().numpy().astype(self.dtype)}
        relative = rows / self.typical.to(rows)
        largest = relative.abs().amax(1) if rows.shape[1] else rows.new_ones(len(rows))
        unit = torch.where(largest > 0, largest, 1.0).float()
        unit = unit / STEPS if self.dtype == "int8" else unit
        numbers = (relative / unit.to(rows)[:, None]).cpu().numpy()
        whole = np.rint(numbers).clip(-STEPS, STEPS) if self.dtype == "int8" else numbers
        return {"rows": whole.astype(self.dtype), "scale": unit.cpu().numpy()}

    def decode(self, arrays: dict[str, np.ndarray]) -> Float[Tensor, "b r"]:
        """Stored rows in their own unit again, as far as they were kept."""
        rows = torch.from_numpy(arrays["rows"].astype(np.float64))
        if not self.scaled:
            return rows
        return rows * torch.from_numpy(arrays["scale"].astype(np.float64))[:, None] * self.typical.double()

    def folded(self, rows: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
        """The queries' side with s taken in, in the type that products are summed in."""
        exact = self.dtype == "float64"
        return (rows * self.typical.to(rows)).to(torch.float64 if exact else torch.float32)
