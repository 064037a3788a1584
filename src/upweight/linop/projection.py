"""Matrices with fewer columns than rows: V ↦ V C keeps a few numbers of every row, chosen, turned or drawn at random."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch

from upweight._typing import Float, Int, Tensor
from upweight.errors import ConfigError
from upweight.linop.blocks import BlockDiagonal
from upweight.linop.kronecker import KroneckerEigen
from upweight.space import Layout, LinearLayout

STRIP = 4096
"""Rows of a random matrix that are drawn together: each strip has a seed of its own, so that none depends on the others."""

HELD_NUMBERS = 2**25
"""Numbers of a random matrix up to which it is kept once drawn; a larger one is drawn anew, strip by strip, at each use."""


class Projection(ABC):
    """A q × r matrix C."""

    @property
    @abstractmethod
    def size(self) -> int:
        """q."""

    @property
    @abstractmethod
    def width(self) -> int:
        """r, numbers kept of a row."""

    @abstractmethod
    def after(self, rows: Float[Tensor, "m q"]) -> Float[Tensor, "m r"]:
        """V ↦ V C."""

    def __rmatmul__(self, rows: Tensor) -> Tensor:
        """``V @ C``."""
        return self.after(rows)

    def dense(self) -> Float[Tensor, "q r"]:
        """C, written out."""
        return self.after(torch.eye(self.size, dtype=torch.float64))


@dataclass(frozen=True)
class Gaussian(Projection):
    """Independent normal entries of variance 1/r, so that E[CCᵀ] = I and inner products are kept on average.

    The inner product of two rows u, v is off by a standard deviation of √((‖u‖²‖v‖² + (u·v)²)/r).

    Args:
        length: q.
        kept: r.
        seed: of the entries; the global seed is not touched.

    Error and cost:
        Unbiased. q·r numbers, kept where they are few, drawn strip by strip at each use where they are many.
    """

    length: int
    kept: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kept < 1:
            raise ConfigError(
                f"a projection to {self.kept} numbers keeps nothing. Expected at least 1; a few hundred are usual."
            )

    @property
    def size(self) -> int:
        return self.length

    @property
    def width(self) -> int:
        return self.kept

    def after(self, rows: Tensor) -> Tensor:
        total = rows.new_zeros(len(rows), self.kept)
        for place, start in enumerate(range(0, self.length, STRIP)):
            total += rows[:, start : start + STRIP] @ self._strip(place).to(rows)
        return total

    def dense(self) -> Tensor:
        return torch.cat([self._strip(place) for place in range(-(-self.length // STRIP))]).double()

    def _strip(self, place: int) -> Float[Tensor, "x r"]:
        if self.length * self.kept <= HELD_NUMBERS:
            return self._strips[place]
        return self._drawn(place)

    @cached_property
    def _strips(self) -> list[Tensor]:
        return [self._drawn(place) for place in range(-(-self.length // STRIP))]

    def _drawn(self, place: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + place)
        rows = min(STRIP, self.length - place * STRIP)
        return torch.randn(rows, self.kept, generator=generator) / self.kept**0.5


@dataclass(frozen=True)
class Picked(Projection):
    """Some coordinates."""

    length: int
    places: Int[Tensor, "r"]

    @property
    def size(self) -> int:
        return self.length

    @property
    def width(self) -> int:
        return len(self.places)

    def after(self, rows: Tensor) -> Tensor:
        return rows[:, self.places]


@dataclass(frozen=True)
class Sided(Projection):
    """(L ⊗ R) on matrices laid flat, V ↦ LᵀVR for V (o, i), of which some entries are kept.

    In an eigenbasis of K-FAC this is truncation; with random L and R it is LoGra's two-sided projection.

    Attributes:
        left, right: columns, (o, x) and (i, y).
        places: which of the x·y entries are kept, in rising order; None for all.
    """

    left: Float[Tensor, "o x"]
    right: Float[Tensor, "i y"]
    places: Int[Tensor, "r"] | None = None

    @property
    def size(self) -> int:
        return len(self.left) * len(self.right)

    @property
    def width(self) -> int:
        return self.left.shape[1] * self.right.shape[1] if self.places is None else len(self.places)

    @classmethod
    def of_eigenbasis(cls, basis: KroneckerEigen, places: Int[Tensor, "r"]) -> Sided:
        """Some coordinates of an eigenbasis, by their place in Λ laid flat; only the columns they need are held."""
        columns = basis.values.shape[1]
        outer, inner = places // columns, places % columns
        rows, at_row = outer.unique(return_inverse=True)
        cols, at_col = inner.unique(return_inverse=True)
        return cls(basis.left[:, rows], basis.right[:, cols], at_row * len(cols) + at_col)

    def after(self, rows: Tensor) -> Tensor:
        matrices = rows.view(len(rows), len(self.left), len(self.right)).to(self.left.dtype)
        return self.picked((self.left.T @ (matrices @ self.right)).flatten(1))

    def picked(self, turned: Float[Tensor, "m y"]) -> Float[Tensor, "m r"]:
        """The entries that are kept of LᵀVR laid flat."""
        return turned if self.places is None else turned[:, self.places]


@dataclass(frozen=True)
class BlockProjection(Projection):
    """One projection for every part of θ, their numbers side by side.

    Attributes:
        parts: where each part lies, and its projection, in the part's own coordinates.
    """

    length: int
    parts: tuple[tuple[Layout, Projection], ...]

    @property
    def size(self) -> int:
        return self.length

    @property
    def width(self) -> int:
        return sum(piece.width for _, piece in self.parts)

    def after(self, rows: Tensor) -> Tensor:
        return torch.cat([piece.after(layout.gather(rows)) for layout, piece in self.parts], 1)

    def columns(self) -> list[slice]:
        """Where each part's numbers lie in a compressed row."""
        found, start = [], 0
        for _, piece in self.parts:
            found.append(slice(start, start + piece.width))
            start += piece.width
        return found


def two_sided(blocks: BlockDiagonal, outputs: int = 64, inputs: int = 64, seed: int = 0) -> BlockProjection:
    """LoGra's projection: every linear map's gradient G (o, i) becomes LᵀGR (outputs, inputs), L and R random.

    Args:
        blocks: any block-diagonal curvature: it says how θ is cut into layers.
        outputs, inputs: numbers kept on each side; a side that is no longer is kept as it is.
        seed: of the entries.

    Returns:
        A projection with E[CCᵀ] = I. Parameters that are no linear map are projected as vectors, or kept where they are few.

    Raises:
        ConfigError: nothing would be kept.
    """
    parts = []
    for place, (layout, _) in enumerate(blocks.parts):
        draw = seed * 1009 + 2 * place
        if isinstance(layout, LinearLayout):
            left, right = _side(layout.outputs, outputs, draw), _side(layout.inputs, inputs, draw + 1)
            parts.append((layout, Sided(left, right)))
        elif layout.width <= outputs * inputs:
            parts.append((layout, Picked(layout.width, torch.arange(layout.width))))
        else:
            parts.append((layout, Gaussian(layout.width, outputs * inputs, draw)))
    return BlockProjection(blocks.width, tuple(parts))


def _side(length: int, kept: int, seed: int) -> Float[Tensor, "o x"]:
    """A random side in float64, or the identity where it would be no shorter."""
    if kept >= length:
        return torch.eye(length, dtype=torch.float64)
    return Gaussian(length, kept, seed).dense()
