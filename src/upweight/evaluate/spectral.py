"""Predictions of many retrainings by many filters of one curvature, from sums of gradients: nothing of size n × m or m × p.

    s_r = Σᵢ (w′_ri − wᵢ) gᵢ;   prediction = −T f(F) s_rᵀ = −Σ (TQ) f(Λ) (s_rQ)

Rows are turned into the eigenbasis once; a filter is one elementwise product there, and one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.gradients import Engine
from upweight.linop import BlockDiagonal, Diagonal, KroneckerEigen
from upweight.router import chunk
from upweight.solve import Filter
from upweight.solve.spectrum import eigenvalues, in_eigenbasis, turned
from upweight.space import Layout
from upweight.tiles.layer_jacobians import LayerJacobian, written_rows


def gradient_sums(engine: Engine, amounts: Float[Tensor, "r n"]) -> Float[Tensor, "r p"]:
    """Σᵢ amount_ri ∇ℓᵢ for every row of amounts, from one pass over the training set, float64."""
    total = amounts.new_zeros(len(amounts), engine.objective.space.size)
    for where, batch in engine.batches():
        block = engine.gradients(batch)
        for row, amount in zip(total, amounts[:, where], strict=True):
            block.add_sum(amount, row)
    return total


@dataclass(frozen=True)
class Part:
    """One block: where it lies, its eigenbasis, its eigenvalues laid flat and their mean, and the sums turned into it."""

    layout: Layout
    basis: KroneckerEigen | Diagonal
    values: Float[Tensor, "q"]
    mean: float
    sums: Float[Tensor, "r q"]


@dataclass(frozen=True)
class Spectral:
    """A block-diagonal curvature in its eigenbasis, with the sums of gradients of r retrainings."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, curvature: BlockDiagonal, sums: Float[Tensor, "r p"]) -> Spectral:
        """Turn the sums into each block's eigenbasis; eigenvalues below zero are taken as zero, as filters do."""
        parts = []
        for layout, block in curvature.parts:
            basis = in_eigenbasis(block)
            values = eigenvalues(basis).flatten().clamp_min(0)
            mean = float(values.double().mean())
            parts.append(Part(layout, basis, values, mean, turned(basis, layout.gather(sums))))
        return cls(tuple(parts))

    @property
    def mean(self) -> float:
        """The mean eigenvalue over all blocks."""
        return sum(part.mean * len(part.values) for part in self.parts) / sum(len(part.values) for part in self.parts)

    @property
    def measurable(self) -> bool:
        """True where every block has a mean eigenvalue above zero, in which a relative filter can be measured."""
        return all(part.mean > 0 for part in self.parts)

    def predicted(self, tile: tuple[LayerJacobian, ...], filters: Sequence[Filter]) -> Float[Tensor, "f r m"]:
        """−T f(F) sᵀ for every filter, retraining and query (and component) of a tile, float64."""
        layers = {layer.layout.places: layer for layer in tile}
        first = tile[0].slopes
        rows, retrained = len(tile[0]) * first.shape[1], len(self.parts[0].sums)
        total = torch.zeros(len(filters), retrained, rows, dtype=torch.float64, device=first.device)
        for part in self.parts:
            self._add(total, part, layers[part.layout.places], filters)
        return total

    def _add(self, total: Tensor, part: Part, layer: LayerJacobian, filters: Sequence[Filter]) -> None:
        components = layer.slopes.shape[1]
        size = chunk(part.layout.width * components, part.values.element_size())
        for start in range(0, len(layer), size):
            chosen = torch.arange(start, min(start + size, len(layer)), device=layer.slopes.device)
            rows = turned(part.basis, written_rows(layer.select(chosen)).flatten(0, 1))  # pyright: ignore
            where = slice(start * components, start * components + len(rows))
            for place, filter in enumerate(filters):
                weighed = part.sums * filter.of(part.values, part.mean if filter.relative else 1.0)
                total[place, :, where] -= weighed @ rows.T
