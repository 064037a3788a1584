"""Random numbers that belong to an example: the same in any batch, on any rank, however often the data are walked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from upweight._typing import Float, Int, Tensor

STEP, FIRST, SECOND = (np.uint64(k) for k in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""Of splitmix64 (Steele, Lea & Flood 2014)."""


@dataclass(frozen=True)
class Draws:
    """Numbers drawn for some examples.

    Attributes:
        seed, again: which draw; another number of either is an independent one.
        places: which examples, by their place in the data set.
    """

    seed: int
    places: Int[np.ndarray, "b"]
    again: int = 0

    def uniform(self, numbers: int) -> Float[Tensor, "b k"]:
        """So many numbers in (0, 1) an example, float64."""
        start = np.asarray([self.seed % 2**64], dtype=np.uint64)
        key = _mixed(_mixed(_mixed(start) + np.uint64(self.again)) + self.places.astype(np.uint64))  # (b,)
        cells = _mixed(key[:, None] + STEP * np.arange(numbers, dtype=np.uint64))  # (b, k)
        return torch.from_numpy(((cells >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)

    def normal(self, numbers: int) -> Float[Tensor, "b k"]:
        """So many standard normal numbers an example, float64."""
        return torch.special.ndtri(self.uniform(numbers))


def _mixed(x: np.ndarray) -> np.ndarray:
    x = x + STEP
    x = (x ^ (x >> np.uint64(30))) * FIRST
    x = (x ^ (x >> np.uint64(27))) * SECOND
    return x ^ (x >> np.uint64(31))
