"""Tiles of gradient rows, one row an example: dense, placed, or factored where a layer is linear.

A linear layer is out[b,s] = W in[b,s] + c, so the gradient of its weight is Σ_s g[b,s] ⊗ a[b,s]: a sum
over the s positions that share the weight, kept as its factors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from upweight._typing import Float, Int, Tensor
from upweight.router import chunk, route_product
from upweight.space import FlatLayout, Layout, LinearLayout, MapLayout


class Block(ABC):
    """A tile of b rows of length p."""

    @abstractmethod
    def __len__(self) -> int:
        """b."""

    @property
    @abstractmethod
    def size(self) -> int:
        """p."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "b p"]:
        """The rows, written out."""

    @abstractmethod
    def against(self, rows: Float[Tensor, "m p"]) -> Float[Tensor, "b m"]:
        """Inner products of every row of the tile with every given row."""

    @abstractmethod
    def add_sum(self, weights: Float[Tensor, "b"], total: Float[Tensor, "p"]) -> None:
        """Add the weighted sum of the rows, in place."""

    def sum(self, weights: Float[Tensor, "b"]) -> Float[Tensor, "p"]:
        """The weighted sum of the rows."""
        total = weights.new_zeros(self.size)
        self.add_sum(weights, total)
        return total

    @abstractmethod
    def squared_norms(self) -> Float[Tensor, "b"]:
        """The squared length of each row."""


@dataclass(frozen=True)
class DenseBlock(Block):
    """Rows held as they are."""

    values: Float[Tensor, "b p"]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size(self) -> int:
        return self.values.shape[1]

    def dense(self) -> Tensor:
        return self.values

    def against(self, rows: Tensor) -> Tensor:
        return self.values.to(rows.dtype) @ rows.T  # (b, m)

    def add_sum(self, weights: Tensor, total: Tensor) -> None:
        total += weights @ self.values.to(weights.dtype)

    def squared_norms(self) -> Tensor:
        return torch.linalg.vecdot(self.values, self.values)  # (b,)


class LayerBlock(Block):
    """Rows that are zero outside one layer: products are taken in the layer's own coordinates."""

    layout: Layout

    @property
    def size(self) -> int:
        return self.layout.size

    @abstractmethod
    def own(self, rows: Float[Tensor, "m q"]) -> Float[Tensor, "b m"]:
        """Inner products with rows given in the layer's own coordinates."""

    @abstractmethod
    def own_rows(self) -> Float[Tensor, "b q"]:
        """The rows in the layer's own coordinates, written out."""

    @abstractmethod
    def own_sum(self, weights: Float[Tensor, "b"]) -> Float[Tensor, "q"]:
        """Their weighted sum."""

    def against(self, rows: Tensor) -> Tensor:
        return self.own(self.layout.gather(rows))

    def dense(self) -> Tensor:
        own = self.own_rows()
        rows = own.new_zeros(len(self), self.layout.size)
        self.layout.scatter(own, rows)
        return rows

    def add_sum(self, weights: Tensor, total: Tensor) -> None:
        self.layout.add_rows(self.own_sum(weights).unsqueeze(0), total.unsqueeze(0))

    def first(self, count: int) -> LayerBlock:
        """The first rows: every part is held with the examples along its leading axis."""
        return replace(self, **{name: held[:count] for name, held in vars(self).items() if isinstance(held, Tensor)})  # pyright: ignore


@dataclass(frozen=True)
class PlacedBlock(LayerBlock):
    """Rows that are zero outside one parameter or layer, written out in its own coordinates."""

    values: Float[Tensor, "b q"]
    layout: Layout

    def __len__(self) -> int:
        return len(self.values)

    def own(self, rows: Tensor) -> Tensor:
        return self.values.to(rows.dtype) @ rows.T  # (b, m)

    def own_rows(self) -> Tensor:
        return self.values

    def own_sum(self, weights: Tensor) -> Tensor:
        return weights @ self.values.to(weights.dtype)

    def squared_norms(self) -> Tensor:
        return torch.linalg.vecdot(self.values, self.values)  # (b,)


@dataclass(frozen=True)
class FactoredBlock(LayerBlock):
    """Rows g ⊗ a of a linear map used once an example: output gradients g and augmented inputs a."""

    inputs: Float[Tensor, "b i"]
    outputs: Float[Tensor, "b o"]
    layout: MapLayout

    def __len__(self) -> int:
        return len(self.inputs)

    def own_rows(self) -> Tensor:
        return (self.outputs.unsqueeze(2) * self.inputs.unsqueeze(1)).flatten(1)

    def own(self, rows: Tensor) -> Tensor:
        o, i = self.layout.outputs, self.layout.inputs
        weights = rows.view(len(rows), o, i)
        if i < o:  # contract the longer side first: what is left between the two products is shorter
            return _contract(self.outputs.to(rows.dtype), weights.permute(1, 0, 2), self.inputs.to(rows.dtype))
        return _contract(self.inputs.to(rows.dtype), weights.permute(2, 0, 1), self.outputs.to(rows.dtype))

    def own_sum(self, weights: Tensor) -> Tensor:
        scaled = self.outputs.to(weights.dtype) * weights.unsqueeze(1)
        return (scaled.T @ self.inputs.to(weights.dtype)).flatten()

    def squared_norms(self) -> Tensor:
        return self.layout.squared_norms(self.inputs, self.outputs)  # (b,)


@dataclass(frozen=True)
class SharedBlock(LayerBlock):
    """Rows Σ_s g[s] ⊗ a[s] of a linear map shared by s positions: tokens, pixels, or calls of a re-used layer."""

    inputs: Float[Tensor, "b s i"]
    outputs: Float[Tensor, "b s o"]
    layout: LinearLayout

    def __len__(self) -> int:
        return len(self.inputs)

    def matrices(self) -> Float[Tensor, "b o i"]:
        """The gradients of the augmented weight, written out."""
        return self.outputs.mT @ self.inputs

    def own_rows(self) -> Tensor:
        return self.matrices().flatten(1)

    def own(self, rows: Tensor) -> Tensor:
        m, s, o, i = len(rows), self.inputs.shape[1], self.layout.outputs, self.layout.inputs
        weights = rows.view(m, o, i)
        how, size = route_product(s, i, o, m, rows.element_size())
        product = _through if how == "through" else _written
        parts = zip(self.inputs.to(rows.dtype).split(size), self.outputs.to(rows.dtype).split(size), strict=True)
        return torch.cat([product(a, g, weights) for a, g in parts])  # (b, m)

    def own_sum(self, weights: Tensor) -> Tensor:
        scaled = self.outputs * weights[:, None, None].to(self.outputs.dtype)  # products of a tile in its own precision
        return (scaled.flatten(0, 1).T @ self.inputs.flatten(0, 1)).flatten().to(weights.dtype)

    def squared_norms(self) -> Tensor:
        s, i, o = self.inputs.shape[1], self.inputs.shape[2], self.outputs.shape[2]
        if s * (i + o) < i * o:  # the Gram matrices of the positions are smaller than the gradient
            return ((self.inputs @ self.inputs.mT) * (self.outputs @ self.outputs.mT)).sum((1, 2))
        parts = zip(*(t.split(chunk(i * o, t.element_size())) for t in (self.inputs, self.outputs)), strict=True)
        return torch.cat([(g.mT @ a).square().sum((1, 2)) for a, g in parts])


@dataclass(frozen=True)
class IndexedBlock(LayerBlock):
    """Rows of an embedding: Σ_s g[s] in the row of the table that position s looked up."""

    index: Int[Tensor, "b s"]
    outputs: Float[Tensor, "b s o"]
    layout: FlatLayout

    def __len__(self) -> int:
        return len(self.index)

    def _tables(self, outputs: Float[Tensor, "b s o"], index: Int[Tensor, "b s"]) -> Float[Tensor, "b v o"]:
        b, s, o = outputs.shape
        table = outputs.new_zeros(b, self.layout.width // o, o)
        return table.scatter_add_(1, index.unsqueeze(2).expand(b, s, o), outputs)

    def own_rows(self) -> Tensor:
        return self._tables(self.outputs, self.index).flatten(1)

    def own(self, rows: Tensor) -> Tensor:
        tables = rows.unflatten(1, (-1, self.outputs.shape[2]))  # (m, v, o)
        outputs = self.outputs.to(rows.dtype)
        return torch.stack([torch.einsum("bso,bso->b", outputs, table[self.index]) for table in tables], 1)

    def own_sum(self, weights: Tensor) -> Tensor:
        scaled = (self.outputs.to(weights.dtype) * weights[:, None, None]).flatten(0, 1).unsqueeze(0)
        return self._tables(scaled, self.index.reshape(1, -1)).flatten()

    def squared_norms(self) -> Tensor:
        same = (self.index.unsqueeze(1) == self.index.unsqueeze(2)).to(self.outputs.dtype)  # (b, s, s)
        return (same * (self.outputs @ self.outputs.mT)).sum((1, 2))


@dataclass(frozen=True)
class BlockSum(Block):
    """Rows that are sums of parts: one part a layer, and parts that overlap where parameters are tied."""

    parts: tuple[LayerBlock, ...]
    tied: bool = False

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def size(self) -> int:
        return self.parts[0].size

    def dense(self) -> Tensor:
        return added_rows([(part.layout, part.own_rows()) for part in self.parts])

    def against(self, rows: Tensor) -> Tensor:
        return self._added(lambda part: part.against(rows))

    def add_sum(self, weights: Tensor, total: Tensor) -> None:
        for part in self.parts:
            part.add_sum(weights, total)

    def squared_norms(self) -> Tensor:
        if not self.tied:
            return self._added(lambda part: part.squared_norms())
        rows = self.dense()
        return torch.linalg.vecdot(rows, rows)

    def _added(self, of: Callable[[LayerBlock], Tensor]) -> Tensor:
        total = of(self.parts[0])
        for part in self.parts[1:]:
            total = total + of(part)
        return total


def untied_blocks(block: BlockSum) -> tuple[LayerBlock, ...]:
    """Parts on disjoint places of θ: those that share a parameter are added up and written out, as ``untied`` does for Jacobians."""
    if not block.tied:
        return block.parts
    alone, together, wheres = shared_places([part.layout for part in block.parts])
    rows = added_rows([(block.parts[k].layout, block.parts[k].own_rows()) for k in together])
    flat = [PlacedBlock(rows[:, a:b], FlatLayout(rows.shape[1], slice(a, b))) for a, b in wheres]
    return (*(block.parts[k] for k in alone), *flat)


def shared_places(layouts: list[Layout]) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Which layouts have their parameters to themselves, which share some, and where all parameters of the latter lie."""
    counts = Counter(at for layout in layouts for at in layout.places)
    together = [k for k, layout in enumerate(layouts) if any(counts[at] > 1 for at in layout.places)]
    alone = [k for k in range(len(layouts)) if k not in together]
    return alone, together, sorted({at for k in together for at in layouts[k].places})


def added_rows(parts: list[tuple[Layout, Tensor]]) -> Float[Tensor, "k p"]:
    """Rows of θ from the coordinates of layers, which may overlap."""
    first = parts[0][1]
    total = first.new_zeros(len(first), parts[0][0].size)
    for layout, own in parts:
        layout.add_rows(own, total)
    return total


def _contract(first: Float[Tensor, "b x"], weights: Float[Tensor, "x m y"], last: Float[Tensor, "b y"]) -> Tensor:
    """Σ_xy first[b,x] weights[x,m,y] last[b,y], in pieces that fit a tile."""
    x, m, y = weights.shape
    flat = weights.reshape(x, m * y)
    if y == 1:
        return (first @ flat).mul_(last)  # (b, m)
    size = chunk(m * y, first.element_size())
    parts = zip(first.split(size), last.split(size), strict=True)
    return torch.cat([((a @ flat).view(len(a), m, y) @ g.unsqueeze(2)).squeeze(2) for a, g in parts])


def _through(a: Float[Tensor, "b s i"], g: Float[Tensor, "b s o"], weights: Float[Tensor, "m o i"]) -> Tensor:
    m, o, _ = weights.shape
    products = (a.flatten(0, 1) @ weights.flatten(0, 1).T).view(*a.shape[:2], m, o)
    return torch.einsum("bsmo,bso->bm", products, g)


def _written(a: Float[Tensor, "b s i"], g: Float[Tensor, "b s o"], weights: Float[Tensor, "m o i"]) -> Tensor:
    return (g.mT @ a).flatten(1) @ weights.flatten(1).T  # (b, m)
