"""The identity, the Fisher's diagonal and its own blocks: what structured curvature is compared with."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from upweight._typing import Tensor
from upweight.curvature.factors import Key, LabelRows, Walk
from upweight.curvature.penalised import with_penalty
from upweight.errors import BudgetError
from upweight.gradients import Engine
from upweight.linop import BlockDiagonal, Dense, Diagonal, Identity, LinearOperator
from upweight.objective import Objective
from upweight.router import chunk
from upweight.space import Layout
from upweight.tiles.layer_jacobians import FactoredJacobian, LayerJacobian, written_rows

LARGEST_BLOCK = 8192
"""Coordinates up to which a dense block is formed: half a gigabyte in float64."""


def diagonal(
    source: Objective | Engine, fisher: str = "auto", seed: int = 0, factor_share: float = 1.0
) -> BlockDiagonal:
    """diag(F), with the penalty.

    Error and cost:
        Drops every coupling. One walk; n·k·i·o a layer used once an example, as one matrix product.
    """
    walk = Walk.of(source, fisher, seed, factor_share)
    found: dict[Key, tuple[Layout, Tensor]] = {}
    with walk.fold.phase("diagonals"):
        for drawn in walk.batches():
            rows = drawn(0)
            for layer in rows.layers:
                layout, total = found.get(layer.layout.places, (layer.layout, 0.0))
                found[layer.layout.places] = layout, total + _squares(layer, rows.weights)
    walk.fold.sum("diagonals", [found[key][1] for key in sorted(found)])
    parts: tuple[tuple[Layout, LinearOperator], ...] = tuple((at, Diagonal(values)) for at, values in found.values())
    return with_penalty(BlockDiagonal(walk.objective.space.size, parts), walk.objective)


def identity(source: Objective | Engine) -> BlockDiagonal:
    """I, layer by layer: the curvature of the gradient dot product."""
    walk = Walk.of(source, "empirical", 0)
    rows = next(iter(walk.batches()))(0)
    parts = tuple((layer.layout, Identity(layer.layout.width)) for layer in rows.layers)
    return BlockDiagonal(walk.objective.space.size, parts)


def block_diagonal(
    source: Objective | Engine, fisher: str = "auto", seed: int = 0, factor_share: float = 1.0
) -> BlockDiagonal:
    """The Fisher's own blocks, one a layer, dense, with the penalty.

    Raises:
        BudgetError: a layer of more than 8,192 parameters.
    """
    walk = Walk.of(source, fisher, seed, factor_share)
    with walk.fold.phase("blocks"):
        found = _gram(drawn(0) for drawn in walk.batches())
    walk.fold.sum("blocks", [found[key][1] for key in sorted(found)])
    parts: tuple[tuple[Layout, LinearOperator], ...] = tuple(
        (at, Dense(matrix, is_symmetric=True)) for at, matrix in found.values()
    )
    return with_penalty(BlockDiagonal(walk.objective.space.size, parts), walk.objective)


def _gram(batches: Iterable[LabelRows]) -> dict[Key, tuple[Layout, Tensor]]:
    found: dict[Key, tuple[Layout, Tensor]] = {}
    for rows in batches:
        for layer in rows.layers:
            q = layer.layout.width
            if q > LARGEST_BLOCK:
                raise BudgetError(
                    f"curvature='block_diagonal' found a layer of {q:,} parameters. Expected at most {LARGEST_BLOCK:,}; use 'ekfac' or 'kfac'."
                )
            own = written_rows(layer).double() * rows.weights.double().sqrt()[:, None, None]
            layout, total = found.get(layer.layout.places, (layer.layout, own.new_zeros(q, q)))
            found[layer.layout.places] = layout, total + own.flatten(0, 1).T @ own.flatten(0, 1)
    return found


def _squares(layer: LayerJacobian, weights: Tensor) -> Tensor:
    if isinstance(layer, FactoredJacobian) and layer.inputs.shape[1] == 1:
        slopes = torch.einsum("bko,b->bo", layer.slopes.squeeze(2).square(), weights)
        return (slopes.T @ layer.inputs.squeeze(1).square()).flatten()
    if not isinstance(layer, FactoredJacobian):
        return torch.einsum("bkq,b->q", written_rows(layer).square(), weights)
    total = weights.new_zeros(layer.layout.width)
    size = chunk(layer.slopes.shape[1] * layer.layout.width, layer.slopes.element_size())
    for part, own in zip(layer.split(size), weights.split(size), strict=True):
        total += torch.einsum("bkq,b->q", written_rows(part).square_(), own)
    return total
