"""Rows of queries prepared for a block-diagonal inverse: every pair of a query and an example from their factors.

    rule        queries are kept as                     a pair costs (FLOPs)
    separable   g̃, ã in the eigenbasis, rank r          2·r·(o + i)         each layer used once an example
    low_rank    preconditioned matrices, truncated      2·s·r·(o + i)       a layer shared by s positions, few queries
    ghost       their own factors                       2·s·t·(o + i)       no curvature; exact
    written     preconditioned matrices (o, i)          2·o·i, and 2·s·o·i an example; exact

What is truncated, and how its error is measured, is in ``truncation``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch

from upweight._typing import Float, Tensor
from upweight.float32_products import fast_float32
from upweight.linop import BlockDiagonal, Identity, LinearOperator, Scaled
from upweight.router import PAIR_QUERIES, approximates, chunk, route_ghost
from upweight.space import FlatLayout
from upweight.tiles.blocks import (
    Block,
    BlockSum,
    DenseBlock,
    LayerBlock,
    PlacedBlock,
    untied_blocks,
)
from upweight.tiles.layer_jacobians import FactoredJacobian, LayerJacobian, rows_after
from upweight.tiles.truncation import Misses, Places, Truncation, factors_of, ranks_of, truncation_of


class LayerPairs(ABC):
    """The queries of one layer, ready to meet the layer's gradients."""

    rule: str

    @abstractmethod
    def against(self, block: LayerBlock) -> Float[Tensor, "b m"]:
        """t_qᵀ P g for every example of a tile and every query."""


@dataclass(frozen=True)
class Written(LayerPairs):
    """Queries times the inverse, written out in the layer's coordinates."""

    rows: Float[Tensor, "m q"]
    rule: str = "written"

    def against(self, block: LayerBlock) -> Tensor:
        return block.own(self.rows)


@dataclass(frozen=True)
class Truncated(LayerPairs):
    """Queries times the inverse as a few products of a row and a column factor, a sum over positions where there are several.

    Attributes:
        slopes, inputs: (r·m, o) and (r·m, i), in the layer's own coordinates.
        ranks: r.
    """

    slopes: Float[Tensor, "x o"]
    inputs: Float[Tensor, "x i"]
    ranks: int
    rule: str

    def against(self, block: LayerBlock) -> Tensor:
        a, g = factors_of(block)
        size = chunk(3 * len(self.slopes) * a.shape[1], a.element_size())
        found = []
        for slopes, inputs in zip(g.split(size), a.split(size), strict=True):
            products = (slopes @ self.slopes.T).mul_(inputs @ self.inputs.T)  # (b, s, r·m)
            found.append(products.sum(1).view(len(slopes), self.ranks, -1).sum(1))
        return torch.cat(found)


@dataclass(frozen=True)
class Ghost(LayerPairs):
    """Queries as their own factors, where the inverse is a multiple of the identity: no gradient is written out."""

    slopes: Float[Tensor, "m t o"]
    inputs: Float[Tensor, "m t i"]
    factor: float
    rule: str = "ghost"

    def against(self, block: LayerBlock) -> Tensor:
        a, g = factors_of(block)
        m, t, _ = self.slopes.shape
        size = chunk(2 * m * t * a.shape[1], a.element_size())
        found = []
        for slopes, inputs in zip(g.split(size), a.split(size), strict=True):
            products = (slopes @ self.slopes.flatten(0, 1).T).mul_(inputs @ self.inputs.flatten(0, 1).T)
            found.append(products.sum(1).view(len(slopes), m, t).sum(2) * self.factor)
        return torch.cat(found)


@dataclass(frozen=True)
class Pairs:
    """All layers' queries; a score is the sum over layers.

    Attributes:
        error: what the truncated ones miss on a sample of pairs.
    """

    layers: Mapping[Places, LayerPairs]
    count: int
    error: Misses = field(default_factory=Misses)

    @fast_float32()
    def against(self, block: Block) -> Float[Tensor, "b m"]:
        """T P Cᵀ, transposed: one row an example."""
        total = None
        for part in parts_of(block):
            scores = self.layers[part.layout.places].against(part)
            total = scores if total is None else total.add_(scores)
        assert total is not None
        return total

    @property
    def rules(self) -> str:
        """Which rule served how many layers, and the error that truncated ones make together."""
        names = [layer.rule for layer in self.layers.values()]
        counted = ", ".join(f"{name} {names.count(name)}" for name in sorted(set(names)))
        truncated = [layer for layer in self.layers.values() if isinstance(layer, Truncated)]
        if not truncated:
            return f"product rules: {counted}"
        rank = max(layer.ranks for layer in truncated)
        return f"product rules: {counted} (rank up to {rank}, {self.error})"


@fast_float32()
def prepare_pairs(
    queries: list[tuple[LayerJacobian, ...]],
    inverse: BlockDiagonal,
    second_moments: BlockDiagonal,
    sample: Callable[[], Block],
    examples: int,
    force: str | None = None,
) -> Pairs:
    """Bring the queries' gradients to the form their layers are cheapest met in.

    Args:
        queries: for every tile of queries its layers, each with one row a query, or one a query and component.
        inverse: the block-diagonal inverse.
        second_moments: the curvature itself, whose eigenvalues say where training gradients have their mass.
        sample: training gradients drawn from all, on which the error of a truncation is measured; taken only if there is one.
        examples: how many examples the queries will meet: few pairs are not worth an approximation.
        force: the name of a rule, to overrule the router; layers it does not fit are written.
    """
    curvature = {layout.places: block for layout, block in second_moments.parts}
    count = sum(len(tile[0]) * tile[0].slopes.shape[1] for tile in queries)
    asked = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:PAIR_QUERIES]
    exact = force is None and not approximates(inverse.size, count, examples)
    own = _Sampled(sample)
    ready: dict[Places, LayerPairs] = {}
    truncations: list[Truncation] = []
    for layout, block in inverse.parts:
        mine, at = [layer for tile in queries for layer in tile if layer.layout.places == layout.places], layout.places
        ghost = _ghost(mine, block, force)
        truncation = (
            None if exact or ghost else truncation_of(mine, block, curvature[at], partial(own.of, at), asked, force)
        )
        if truncation is None:
            ready[at] = ghost or _written(mine, block)
        else:
            truncations.append(truncation)
    if not truncations:
        return Pairs(ready, count)
    rest = torch.zeros_like(truncations[0].exact)
    for at, pairs in ready.items():
        rest += pairs.against(own.of(at))[:, asked]
    ranks, error = ranks_of(truncations, rest, force is not None)
    for truncation, rank in zip(truncations, ranks, strict=True):
        if rank:
            ready[truncation.places] = Truncated(*truncation.factors(rank), rank, truncation.rule)
        else:
            ready[truncation.places] = _written(list(truncation.mine), truncation.inverse)
    return Pairs(ready, count, error)


class _Sampled:
    """The layers of some training gradients, which are taken when they are first asked for."""

    def __init__(self, sample: Callable[[], Block]) -> None:
        self.sample = sample

    @cached_property
    def layers(self) -> dict[Places, LayerBlock]:
        """By where their parameters lie."""
        return {part.layout.places: part for part in parts_of(self.sample())}

    def of(self, places: Places) -> LayerBlock:
        """One of them."""
        return self.layers[places]


def _written(mine: list[LayerJacobian], inverse: LinearOperator) -> Written:
    return Written(torch.cat([rows_after(layer, inverse) for layer in mine]))


def _ghost(mine: list[LayerJacobian], inverse: LinearOperator, force: str | None) -> Ghost | None:
    """The queries as factors where that is exact, and asked for or cheaper than writing gradients out."""
    factored = [layer for layer in mine if isinstance(layer, FactoredJacobian) and layer.inputs.shape[1] > 1]
    multiple = isinstance(inverse, Scaled) and isinstance(inverse.base, Identity)
    if len(factored) < len(mine) or not multiple or force not in (None, "ghost"):
        return None
    slopes = torch.cat([layer.slopes.flatten(0, 1) for layer in factored])  # (m, t, o)
    inputs = torch.cat([layer.inputs.repeat_interleave(layer.slopes.shape[1], 0) for layer in factored])
    (m, t, o), i = slopes.shape, inputs.shape[2]
    return Ghost(slopes, inputs, inverse.factor) if force or route_ghost(t, t, i, o, m) else None  # pyright: ignore


def parts_of(block: Block) -> tuple[LayerBlock, ...]:
    """The layers of a tile."""
    if isinstance(block, DenseBlock):  # a model without layer rules is one block, all of θ
        size = block.values.shape[1]
        return (PlacedBlock(block.values, FlatLayout(size, slice(0, size))),)
    parts = untied_blocks(block) if isinstance(block, BlockSum) else (block,)
    assert all(isinstance(part, LayerBlock) for part in parts)
    return parts  # pyright: ignore
