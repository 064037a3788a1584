"""Rows in an eigenbasis, weighed and added up with random signs into a few numbers that keep inner products on average."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from upweight._typing import Float, Int, Tensor
from upweight.errors import ConfigError
from upweight.linop.kronecker import KroneckerEigen
from upweight.linop.projection import Projection


@dataclass(frozen=True)
class Hashed(Projection):
    """V ↦ (VQ ∘ W) S: coordinate j of the eigenbasis Q, times W_j and a random sign, is added to number j mod r.

    E[SSᵀ] = I, so the inner product of two hashed rows u, v is uᵀQW²Qᵀv on average, off by a standard deviation of about
    ‖u‖‖v‖/√r in that metric. All of θ takes part, where a truncation keeps a few coordinates of it.

    Attributes:
        left, right: Q = left ⊗ right on matrices laid flat; None where rows are not turned.
        scale: W.
        signs: ±1.
        kept: r.

    Error and cost:
        Unbiased. A row costs its turning and q additions; a part no longer than r keeps all its coordinates.
    """

    left: Float[Tensor, "o o"] | None
    right: Float[Tensor, "i i"] | None
    scale: Float[Tensor, "q"]
    signs: Int[Tensor, "q"]
    kept: int

    @classmethod
    def drawn(cls, basis: KroneckerEigen | None, scale: Float[Tensor, "q"], kept: int, seed: int) -> Hashed:
        """With signs from a seed; the global seed is not touched.

        Raises:
            ConfigError: nothing would be kept.
        """
        if kept < 1:
            raise ConfigError(
                f"a sketch to {kept} numbers keeps nothing. Expected at least 1 a layer; many thousands are usual."
            )
        signs = torch.randint(0, 2, (len(scale),), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
        sides = (None, None) if basis is None else (basis.left, basis.right)
        return cls(*sides, scale, (2 * signs - 1).to(scale.device), min(kept, len(scale)))

    @property
    def size(self) -> int:
        return len(self.scale)

    @property
    def width(self) -> int:
        return self.kept

    @property
    def basis(self) -> KroneckerEigen | None:
        """Q, with W for its eigenvalues."""
        if self.left is None or self.right is None:
            return None
        return KroneckerEigen(self.left, self.right, self.scale.view(len(self.left), len(self.right)))

    def after(self, rows: Tensor) -> Tensor:
        if self.left is None or self.right is None:
            return self.hashed(rows)
        matrices = rows.view(len(rows), len(self.left), len(self.right)).to(self.left.dtype)
        return self.hashed((self.left.T @ (matrices @ self.right)).flatten(1))

    def hashed(self, turned: Float[Tensor, "m q"]) -> Float[Tensor, "m r"]:
        """Rows that are in the eigenbasis already."""
        weighed = turned * (self.scale * self.signs).to(turned)
        return F.pad(weighed, (0, -self.size % self.kept)).view(len(turned), -1, self.kept).sum(1)

    def opposite(self, values: Float[Tensor, "q"] | float) -> Hashed:
        """The other side of uᵀ f v: the same sketch with f/W for its weights, f the ``values`` at every coordinate."""
        told = torch.where(self.scale > 0, values / self.scale, 0.0)  # W is zero where f is: a part without curvature
        return replace(self, scale=told.to(self.scale))
