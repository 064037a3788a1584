"""Numbers in fewer bytes: 16-bit floats, 8-bit integers or signs, each row on a scale of its own.

    stored = round(v / (s ∘ c)),   s_j the typical size of number j, c the row's largest |v/s| (over 127 for integers)
    stored = sign(Mv),             c = Σ(Mv)² / Σ|Mv|, so that a row's product with itself is kept

M, Hartley's transform, is orthogonal: it spreads a few large numbers over all, so that signs and one size say much of a row. s and M go to the query's side, so that a block of rows meets the queries in one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from upweight._typing import Float, Tensor

STEPS = 127.0
"""Of an 8-bit integer on each side of zero."""

SCALED = ("float16", "int8", "bit")
"""Types whose rows have a scale of their own."""

FLOOR = 1e-3
"""Of the typical size over all numbers: what number j is taken to be at least, so that a rare one keeps its place."""


@dataclass(frozen=True)
class Rounding:
    """How compressed rows are written in a type.

    Attributes:
        dtype: 'float64', 'float32', 'float16', 'int8' or 'bit'.
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
        return self.dtype in SCALED

    def encode(self, rows: Float[Tensor, "b r"]) -> dict[str, np.ndarray]:
        """Rows as they are stored, with their scales."""
        if not self.scaled:
            return {"rows": rows.cpu().numpy().astype(self.dtype)}
        if self.dtype == "bit":
            return _signs(_mixed(rows))
        relative = rows / self.typical.to(rows)
        largest = relative.abs().amax(1) if rows.shape[1] else rows.new_ones(len(rows))
        unit = torch.where(largest > 0, largest, 1.0).float()
        unit = unit / STEPS if self.dtype == "int8" else unit
        numbers = (relative / unit.to(rows)[:, None]).cpu().numpy()
        whole = np.rint(numbers).clip(-STEPS, STEPS) if self.dtype == "int8" else numbers
        return {"rows": whole.astype(self.dtype), "scale": unit.cpu().numpy()}

    def decode(self, arrays: dict[str, np.ndarray]) -> Float[Tensor, "b r"]:
        """Stored rows in their own unit again, as far as they were kept."""
        rows = self.numbers(arrays["rows"]).double()
        if not self.scaled:
            return rows
        rows = rows * torch.from_numpy(arrays["scale"].astype(np.float64))[:, None]
        return _mixed(rows) if self.dtype == "bit" else rows * self.typical.double()

    def numbers(self, stored: np.ndarray, start: int = 0, stop: int | None = None) -> Tensor:
        """What is stored as numbers, (b, r) or some columns, signs as ±1, in whatever type they have; ``start`` is a multiple of 8."""
        stop = len(self.typical) if stop is None else stop
        if self.dtype != "bit":
            return torch.from_numpy(stored[:, start:stop])
        bits = np.unpackbits(stored[:, start // 8 : -(-stop // 8)], axis=1, count=stop - start)
        return torch.from_numpy(bits).to(torch.int8).mul_(2).sub_(1)

    def folded(self, rows: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
        """The queries' side with s or M taken in, in the type that products are summed in."""
        exact = self.dtype == "float64"
        told = _mixed(rows) if self.dtype == "bit" else rows * self.typical.to(rows)
        return told.to(torch.float64 if exact else torch.float32)


def _signs(rows: Float[Tensor, "b r"]) -> dict[str, np.ndarray]:
    unit = rows.square().sum(1) / rows.abs().sum(1).clamp_min(torch.finfo(rows.dtype).tiny)
    return {"rows": np.packbits((rows >= 0).cpu().numpy(), axis=1), "scale": unit.float().cpu().numpy()}


def _mixed(rows: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
    """Hartley's transform, which is its own inverse: every number becomes a sum of all, weighed by a wave."""
    waves = torch.fft.fft(rows, norm="ortho")
    return waves.real - waves.imag
