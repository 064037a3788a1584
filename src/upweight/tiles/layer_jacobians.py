"""Output Jacobians of a network, layer by layer, kept as the factors of its linear maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from upweight._typing import Float, Int, Tensor
from upweight.linop import BlockDiagonal, KroneckerEigen, LinearOperator
from upweight.router import chunk, route_rotation
from upweight.space import FlatLayout, Layout, LinearLayout
from upweight.tiles.blocks import (
    Block,
    BlockSum,
    FactoredBlock,
    IndexedBlock,
    LayerBlock,
    PlacedBlock,
    SharedBlock,
    shared_places,
)
from upweight.tiles.jacobian import Jacobian, LayerJacobian, add_dense_gram, dense_sandwich


@dataclass(frozen=True)
class FactoredJacobian(LayerJacobian):
    """A linear map: J = Σ_s slopes[s] ⊗ a[s]."""

    inputs: Float[Tensor, "b s i"]
    slopes: Float[Tensor, "b k s o"]
    layout: LinearLayout

    def vjp(self, outputs: Tensor) -> LayerBlock:
        return factored_block(self.inputs, self.mixed(outputs), self.layout)

    def select(self, chosen: Tensor) -> Jacobian:
        return FactoredJacobian(self.inputs[chosen], self.slopes[chosen], self.layout)

    def split(self, size: int) -> Iterator[FactoredJacobian]:
        """At most this many examples at a time."""
        for a, g in zip(self.inputs.split(size), self.slopes.split(size), strict=True):
            yield FactoredJacobian(a, g, self.layout)

    def jvp(self, rows: Tensor) -> Tensor:
        """One product with all rows' matrices, then one an example with the slopes of all outputs."""
        matrices = self.layout.matrix(rows).permute(1, 0, 2).flatten(0, 1)  # (o·k, i)
        found = []
        for a, g in self._chunks(len(rows), rows.dtype):
            moved = (a.flatten(0, 1) @ matrices.T).view(len(a), -1, len(rows))  # (b, s·o, k)
            found.append(g.flatten(2) @ moved)
        return torch.cat(found)

    def pull_sum(self, outputs: Tensor) -> Tensor:
        k, total, start = outputs.shape[2], None, 0
        for a, g in self._chunks(k, outputs.dtype):
            slopes = g.flatten(2).mT @ outputs[start : start + len(a)]  # (b, s·o, k)
            part = slopes.view(a.shape[0] * a.shape[1], -1).T @ a.flatten(0, 1)  # (o·k, i)
            total, start = part if total is None else total.add_(part), start + len(a)
        assert total is not None
        return self.layout.rows(total.view(self.layout.outputs, k, -1).transpose(0, 1))

    def _chunks(self, rows: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and slopes, as many examples at a time as leave room for the outputs of every row."""
        size = chunk(self.inputs.shape[1] * self.layout.outputs * rows, dtype.itemsize)
        for a, g in zip(self.inputs.split(size), self.slopes.split(size), strict=True):
            yield a.to(dtype), g.to(dtype)


@dataclass(frozen=True)
class PlacedJacobian(LayerJacobian):
    """A parameter, or a layer, whose derivatives are written out."""

    slopes: Float[Tensor, "b k q"]
    layout: Layout

    def vjp(self, outputs: Tensor) -> LayerBlock:
        return PlacedBlock(self.mixed(outputs), self.layout)

    def select(self, chosen: Tensor) -> Jacobian:
        return PlacedJacobian(self.slopes[chosen], self.layout)

    def jvp(self, rows: Tensor) -> Tensor:
        return self.slopes.to(rows.dtype) @ self.layout.gather(rows).T  # (b, o, k)

    def pull_sum(self, outputs: Tensor) -> Tensor:
        total = outputs.new_zeros(outputs.shape[2], self.layout.size)
        self.layout.scatter(torch.einsum("bok,boq->kq", outputs, self.slopes.to(outputs.dtype)), total)
        return total


@dataclass(frozen=True)
class IndexedJacobian(LayerJacobian):
    """An embedding."""

    index: Int[Tensor, "b s"]
    slopes: Float[Tensor, "b k s o"]
    layout: FlatLayout

    def vjp(self, outputs: Tensor) -> LayerBlock:
        return IndexedBlock(self.index, self.mixed(outputs), self.layout)

    def select(self, chosen: Tensor) -> Jacobian:
        return IndexedJacobian(self.index[chosen], self.slopes[chosen], self.layout)


@dataclass(frozen=True)
class JacobianSum(Jacobian):
    """J of a whole network: the sum of its layers' parts."""

    parts: tuple[LayerJacobian, ...]
    tied: bool = False

    def __len__(self) -> int:
        return len(self.parts[0])

    def vjp(self, outputs: Tensor) -> Block:
        return BlockSum(tuple(part.vjp(outputs) for part in self.parts), self.tied)

    def pulled(self, slopes: list[Tensor]) -> tuple[LayerJacobian, ...]:
        return untied(tuple(layer for part in self.parts for layer in part.pulled(slopes)), self.tied)

    def jvp(self, rows: Tensor) -> Tensor:
        return sum_of([part.jvp(rows) for part in self.parts])

    def pull_sum(self, outputs: Tensor) -> Tensor:
        return sum_of([part.pull_sum(outputs) for part in self.parts])

    def sandwich(self, operator: LinearOperator) -> Tensor:
        if not isinstance(operator, BlockDiagonal):
            return dense_sandwich(self.dense(), operator)
        blocks = {layout.places: block for layout, block in operator.parts}
        layers = untied(self.parts, self.tied)
        return sum_of([layer_sandwich(layer, blocks[layer.layout.places]) for layer in layers])

    def add_gram(self, curvature: Tensor, total: Tensor) -> None:
        add_dense_gram(self.dense(), curvature, total)

    def dense(self) -> Tensor:
        return sum_of([part.dense() for part in self.parts])

    def select(self, chosen: Tensor) -> Jacobian:
        return JacobianSum(tuple(part.select(chosen) for part in self.parts), self.tied)  # pyright: ignore


def written_rows(layer: LayerJacobian) -> Float[Tensor, "b k q"]:
    """The rows of a layer, on its own coordinates."""
    if isinstance(layer, PlacedJacobian):
        return layer.slopes
    if isinstance(layer, FactoredJacobian):
        return stacked([g.mT @ layer.inputs for g in layer.slopes.unbind(1)]).flatten(2)
    if isinstance(layer, IndexedJacobian):
        b, k, s, o = layer.slopes.shape
        table = layer.slopes.new_zeros(b, k, layer.layout.width // o, o)
        return table.scatter_add_(2, layer.index[:, None, :, None].expand(b, k, s, o), layer.slopes).flatten(2)
    return layer.layout.gather(layer.dense().flatten(0, 1)).view(len(layer), -1, layer.layout.width)


def untied(layers: tuple[LayerJacobian, ...], tied: bool) -> tuple[LayerJacobian, ...]:
    """Layers on disjoint parts of θ: those that share a parameter are added up and written out."""
    if not tied:
        return layers
    alone, together, wheres = shared_places([layer.layout for layer in layers])
    if not together:
        return layers
    rows = sum_of([layers[k].dense() for k in together])
    flat = [PlacedJacobian(rows[:, :, a:b], FlatLayout(rows.shape[2], slice(a, b))) for a, b in wheres]
    return (*(layers[k] for k in alone), *flat)


def factored_block(inputs: Float[Tensor, "b s i"], outputs: Float[Tensor, "b s o"], layout: LinearLayout) -> LayerBlock:
    """The block of a linear map, by how often the map is used."""
    if inputs.shape[1] == 1:
        return FactoredBlock(inputs.squeeze(1), outputs.squeeze(1), layout)
    return SharedBlock(inputs, outputs, layout)


def layer_sandwich(
    layer: LayerJacobian, block: LinearOperator, squares: Float[Tensor, "b i"] | None = None
) -> Float[Tensor, "b o o"]:
    """J A Jᵀ of one layer; in an eigenbasis a layer used once an example costs no more than its factors.

    Args:
        squares: of such a layer's inputs in the eigenbasis, where they are at hand.
    """
    if isinstance(layer, FactoredJacobian) and isinstance(block, KroneckerEigen) and layer.inputs.shape[1] == 1:
        squares = (layer.inputs[:, 0] @ block.right).square() if squares is None else squares
        slopes = layer.slopes[:, :, 0] @ block.left  # (b, k, o)
        return (slopes * (squares @ block.values.T).unsqueeze(1)) @ slopes.mT
    size = chunk(2 * layer.slopes.shape[1] * layer.layout.width, layer.slopes.element_size())
    if isinstance(layer, FactoredJacobian) and isinstance(block, KroneckerEigen):
        rows = [turned_gradients(part, block).flatten(2) for part in layer.split(size)]
        return torch.cat([(part * block.values.flatten().to(part.dtype)) @ part.mT for part in rows])
    found = []
    for start in range(0, len(layer), size):
        chosen = torch.arange(start, min(start + size, len(layer)), device=layer.slopes.device)
        rows = written_rows(layer.select(chosen))  # pyright: ignore
        found.append(block.after(rows.flatten(0, 1)).view(rows.shape).to(rows.dtype) @ rows.mT)
    return torch.cat(found)


def turned_gradients(layer: FactoredJacobian, basis: KroneckerEigen) -> Float[Tensor, "b k o i"]:
    """Q_Bᵀ G Q_A of every example and slope: inputs and slopes are turned, or the gradients, whichever is less work."""
    a, (k, s, o), i = layer.inputs, layer.slopes.shape[1:], layer.inputs.shape[2]
    if route_rotation(s, i, o, k) == "factors":
        inputs = a @ basis.right
        return stacked([(g @ basis.left).mT @ inputs for g in layer.slopes.unbind(1)])
    return stacked([basis.left.T @ ((g.mT @ a) @ basis.right) for g in layer.slopes.unbind(1)])


def rows_after(layer: LayerJacobian, operator: LinearOperator) -> Float[Tensor, "x q"]:
    """The rows of a layer, one an example and slope, after an operator; into an eigenbasis they come from their factors."""
    if isinstance(layer, FactoredJacobian) and isinstance(operator, KroneckerEigen):
        dtype = operator.values.dtype
        own = replace(layer, inputs=layer.inputs.to(dtype), slopes=layer.slopes.to(dtype))
        return operator.after_turned(turned_gradients(own, operator).flatten(0, 1))
    return operator.after(written_rows(layer).flatten(0, 1))


def stacked(parts: list[Tensor]) -> Float[Tensor, "b k ..."]:
    """Parts side by side on a new second axis; a lone one is not copied."""
    return parts[0].unsqueeze(1) if len(parts) == 1 else torch.stack(parts, 1)


def own_gram(layer: LayerJacobian) -> Float[Tensor, "b b"]:
    """Inner products of all rows of a layer of one output; from the factors where it is used once an example."""
    if isinstance(layer, FactoredJacobian) and layer.inputs.shape[1] == 1:
        a, g = layer.inputs[:, 0], layer.slopes[:, 0, 0]
        return (a @ a.T).mul_(g @ g.T)
    size = chunk(layer.layout.width, layer.slopes.element_size())
    places = torch.arange(len(layer), device=layer.slopes.device).split(size)
    if len(places) == 1:
        rows = written_rows(layer)[:, 0]
        return rows @ rows.T
    rows = torch.cat([written_rows(layer.select(chosen))[:, 0] for chosen in places])  # pyright: ignore
    return rows @ rows.T


def sum_of(terms: list[Tensor]) -> Tensor:
    """Terms of one shape, added in place of the first."""
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total
