"""Gradients brought to a few numbers an example from their factors: the rows themselves are seldom written out."""

from __future__ import annotations

from typing import TypeGuard

import torch

from upweight._typing import Float, Tensor
from upweight.linop.hashed import Hashed
from upweight.linop.kronecker import KroneckerEigen
from upweight.linop.projection import BlockProjection, Picked, Projection, Sided
from upweight.router import chunk
from upweight.space import LinearLayout
from upweight.tiles.blocks import Block, FactoredBlock, SharedBlock
from upweight.tiles.layer_jacobians import (
    FactoredJacobian,
    IndexedJacobian,
    LayerJacobian,
    turned_gradients,
    written_rows,
)


def compressed(layers: tuple[LayerJacobian, ...], projection: BlockProjection) -> Float[Tensor, "b k r"]:
    """Every layer's rows through its own projection, side by side in the projection's order."""
    found = {layer.layout.places: layer for layer in layers}
    return torch.cat([compressed_layer(found[at.places], piece) for at, piece in projection.parts], 2)


def compressed_layer(layer: LayerJacobian, piece: Projection) -> Float[Tensor, "b k r"]:
    """One layer's rows, a few examples at a time.

    rule      layer, projection             an example costs (FLOPs, k rows)
    turned    factors, both sides           2·s·(i·y + k·o·x) + 2·k·s·x·y, or k·r where s = 1
    looked up embedding, coordinates        k·s·o
    hashed    factors, eigenbasis           the turned gradient, 2·k·q
    written   everything else               the row, and its product
    """
    if isinstance(layer, FactoredJacobian) and isinstance(piece, Sided):
        return _turned(layer, piece)
    if isinstance(layer, FactoredJacobian) and isinstance(piece, Hashed) and _by_sides(piece.basis, layer):
        return _hashed(layer, piece, piece.basis)
    if isinstance(layer, IndexedJacobian) and isinstance(piece, Picked):
        return _looked_up(layer, piece)
    k = layer.slopes.shape[1]
    size = chunk(2 * k * piece.size, layer.slopes.element_size())
    return torch.cat([_written(layer.select(chosen), piece) for chosen in _places(layer, size)])  # pyright: ignore


def project(block: Block, projection: Projection) -> Float[Tensor, "b r"]:
    """A tile of rows times C; from the factors where both have layers."""
    if not isinstance(projection, BlockProjection):
        return projection.after(block.dense())
    parts = [
        part
        for part in getattr(block, "parts", (block,))
        if isinstance(part, FactoredBlock | SharedBlock) and isinstance(part.layout, LinearLayout)
    ]
    if len(parts) < len(getattr(block, "parts", (block,))) or getattr(block, "tied", False):
        return projection.after(block.dense())
    layers = tuple(_as_layer(part) for part in parts)
    return compressed(layers, projection)[:, 0]


def _as_layer(part: FactoredBlock | SharedBlock) -> FactoredJacobian:
    shared = isinstance(part, SharedBlock)
    inputs = part.inputs if shared else part.inputs.unsqueeze(1)
    outputs = part.outputs if shared else part.outputs.unsqueeze(1)
    assert isinstance(part.layout, LinearLayout)
    return FactoredJacobian(inputs, outputs.unsqueeze(1), part.layout)


def _turned(layer: FactoredJacobian, piece: Sided) -> Float[Tensor, "b k r"]:
    left, right = piece.left.to(layer.slopes), piece.right.to(layer.inputs)
    s, k = layer.inputs.shape[1], layer.slopes.shape[1]
    numbers = s * right.shape[1] + k * s * left.shape[1] + 2 * k * max(piece.width, left.shape[1] * right.shape[1])
    found = []
    size = chunk(numbers, left.element_size())
    for a, g in zip(layer.inputs.split(size), layer.slopes.split(size), strict=True):
        inputs, slopes = a @ right, g @ left  # (b, s, y), (b, k, s, x)
        found.append(_lone(slopes, inputs, piece) if s == 1 else _summed(slopes, inputs, piece))
    return torch.cat(found)


def _lone(slopes: Float[Tensor, "b k 1 x"], inputs: Float[Tensor, "b 1 y"], piece: Sided) -> Float[Tensor, "b k r"]:
    """Only the entries that are kept are ever formed."""
    y = inputs.shape[2]
    if piece.places is None:
        return (slopes[:, :, 0].unsqueeze(3) * inputs.unsqueeze(1)).flatten(2)
    return slopes[:, :, 0][..., piece.places // y] * inputs[:, 0][:, None, piece.places % y]


def _summed(slopes: Float[Tensor, "b k s x"], inputs: Float[Tensor, "b s y"], piece: Sided) -> Float[Tensor, "b k r"]:
    matrices = slopes.mT @ inputs.unsqueeze(1)  # (b, k, x, y)
    return piece.picked(matrices.flatten(2).flatten(0, 1)).view(len(slopes), slopes.shape[1], -1)


def _by_sides(basis: KroneckerEigen | None, layer: FactoredJacobian) -> TypeGuard[KroneckerEigen]:
    """Whether a basis turns inputs and outputs, and not the whole row as that of a dense block does."""
    return basis is not None and basis.values.shape == (layer.slopes.shape[3], layer.inputs.shape[2])


def _hashed(layer: FactoredJacobian, piece: Hashed, basis: KroneckerEigen) -> Float[Tensor, "b k r"]:
    k, found = layer.slopes.shape[1], []
    for part in layer.split(chunk(4 * k * piece.size, layer.slopes.element_size())):
        rows = turned_gradients(part, basis).flatten(2)
        found.append(piece.hashed(rows.flatten(0, 1)).view(len(rows), k, -1))
    return torch.cat(found)


def _looked_up(layer: IndexedJacobian, piece: Picked) -> Float[Tensor, "b k r"]:
    """Rows of the table that no kept coordinate lies in are added up in one that is thrown away."""
    b, k, s, o = layer.slopes.shape
    wanted, where = (piece.places // o).unique(return_inverse=True)
    slot = torch.full((piece.size // o,), len(wanted), device=layer.index.device)
    slot[wanted] = torch.arange(len(wanted), device=layer.index.device)
    at, found = where * o + piece.places % o, []
    for index, slopes in zip(
        *(t.split(chunk(k * (len(wanted) + 1) * o, 8)) for t in (layer.index, layer.slopes)), strict=True
    ):
        table = slopes.new_zeros(len(index), k, len(wanted) + 1, o)
        table.scatter_add_(2, slot[index][:, None, :, None].expand(len(index), k, s, o), slopes)
        found.append(table.flatten(2)[:, :, at])
    return torch.cat(found) if found else layer.slopes.new_zeros(b, k, piece.width)


def _written(layer: LayerJacobian, piece: Projection) -> Float[Tensor, "b k r"]:
    rows = written_rows(layer)
    return piece.after(rows.flatten(0, 1)).view(len(rows), rows.shape[1], -1).to(rows.dtype)


def _places(layer: LayerJacobian, size: int) -> tuple[Tensor, ...]:
    return torch.arange(len(layer), device=layer.slopes.device).split(size)
