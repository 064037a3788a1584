"""Queries ready to meet an index: x = H⁻¹t through the index's projection, and what makes a score of it.

effect of leaving i out = wᵢ(x·gᵢ + κ),   κ = x·∇r/Σw where the penalty goes with the point, else 0
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.fitted import Fitted
from upweight.index.basis import Basis, projected_inverse
from upweight.linop import (
    BlockDiagonal,
    Diagonal,
    Hashed,
    Identity,
    KroneckerEigen,
    LinearOperator,
    Picked,
    Projection,
    Scaled,
    Sided,
)
from upweight.questions.measuring import Measurement
from upweight.router import chunk
from upweight.space import Layout
from upweight.tiles.compressed import compressed, compressed_layer
from upweight.tiles.layer_jacobians import LayerJacobian, sum_of, written_rows
from upweight.tiles.pairs import Places


@dataclass(frozen=True)
class Solved:
    """x of every result, layer by layer, in each layer's own coordinates.

    Attributes:
        rows: x, (m, q) a layer.
        constant: κ.
        residual: r = t − (H + λI)x in float64, where x came from a solve; None where it is exact.
        verdict: how, in words.
    """

    rows: dict[Places, Float[Tensor, "m q"]]
    constant: Float[Tensor, "m"]
    verdict: str
    residual: Float[Tensor, "m p"] | None = None

    def against(self, layers: tuple[LayerJacobian, ...]) -> Float[Tensor, "b m"]:
        """x·gᵢ of gradients that are written out a few at a time."""
        total = None
        for layer in layers:
            mine = self.rows[layer.layout.places]
            size = chunk(layer.layout.width, mine.element_size())
            places = torch.arange(len(layer), device=layer.slopes.device).split(size)
            found = torch.cat([written_rows(layer.select(at))[:, 0].to(mine) @ mine.T for at in places])  # pyright: ignore
            total = found if total is None else total.add_(found)
        assert total is not None
        return total

    def through(self, basis: Basis) -> Float[Tensor, "m r"]:
        """x in the numbers the index keeps."""
        found = [
            piece.after(self.rows[at.places].to(_type_of(piece, self.rows[at.places])))
            for at, piece in basis.projection.parts
        ]
        return torch.cat([part.to(found[0].dtype) for part in found], 1)

    def left_out(self, basis: Basis, kept: Float[Tensor, "m r"]) -> Float[Tensor, "m x"]:
        """‖what each layer's projection leaves out of x‖, in the metric that undoes the one gradients are measured in."""
        if basis.metric is None:
            return kept.new_zeros(len(kept), 0)
        tails = []
        for (at, block), where in zip(basis.metric.parts, basis.projection.columns(), strict=True):
            rows = self.rows[at.places]
            whole = (block.after(rows).double() * rows.double()).sum(1)
            inside = kept[:, where].double().square() @ (1 / basis.lengths[where]).to(rows.device)
            tails.append((whole - inside).clamp_min(0) + 64 * torch.finfo(rows.dtype).eps * whole)
        return torch.stack(tails, 1).sqrt()


def solve(fitted: Fitted, measured: Measurement) -> Solved:
    """x = H⁻¹t written out: m × p numbers."""
    if fitted.structured:
        rows = dict(solved_layers(fitted, measured))
        along = [x.double() @ pull for (_, x), pull in zip(rows.items(), _pulls(fitted), strict=True)]
        return Solved(rows, _constant(fitted, sum_of(along)), str(fitted.blocked.inverse.verdict))
    found = measured.rows()
    solution = fitted.row_inverse(len(found)).solve(found)
    solution.verdict.warn()
    return of_rows(fitted, solution.rows, str(solution.verdict), layouts_of(fitted))


def solved_layers(fitted: Fitted, measured: Measurement) -> Iterator[tuple[Places, Float[Tensor, "m q"]]]:
    """x of one block of a structured inverse after the other."""
    inverse = fitted.blocked.inverse.operator
    assert isinstance(inverse, BlockDiagonal)
    layers = [layer for tile in measured.tiles() for layer in tile]
    for at, block in inverse.parts:
        mine = [layer for layer in layers if layer.layout.places == at.places]
        rows = [block.after(part).to(part) for layer in mine for part in _written_parts(layer)]
        yield at.places, _gathered(measured, torch.cat(rows))


def _pulls(fitted: Fitted) -> Iterator[Float[Tensor, "q"]]:
    """∇r on every block, in the block's own coordinates."""
    gradient = fitted.penalty_gradient.unsqueeze(0)
    for at, _ in fitted.blocked.curvature.parts:
        yield at.gather(gradient)[0]


def of_rows(
    fitted: Fitted, rows: Float[Tensor, "m p"], verdict: str, layouts: list[Layout], residual: Tensor | None = None
) -> Solved:
    """The same from rows of θ."""
    parts = {at.places: at.gather(rows) for at in layouts}
    return Solved(parts, _constant(fitted, rows.double() @ fitted.penalty_gradient), verdict, residual)


def layouts_of(fitted: Fitted) -> list[Layout]:
    """How the model is cut into layers."""
    _, batch = next(iter(fitted.engine.batches()))
    outputs, targets, jacobian = fitted.engine.linearised(batch)
    return [layer.layout for layer in jacobian.pulled([fitted.objective.loss.gradient(outputs, targets)])]


IN_EIGENBASIS = ("eigenbasis", "sketch")
"""Compressions that take x in the eigenbasis."""


def compressed_queries(
    fitted: Fitted, measured: Measurement, basis: Basis
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "m"], str]:
    """x through the projection, κ and the verdict; in the study's own eigenbasis nothing of size m × p is written out."""
    if basis.kind == "logra":
        tiles = [compressed(tile, basis.projection).flatten(0, 1) for tile in measured.tiles()]
        rows = _gathered(measured, torch.cat(tiles)) @ projected_inverse(basis, fitted)
        pull = basis.projection.after(fitted.penalty_gradient.to(rows).unsqueeze(0))[0]
        return rows, _constant(fitted, rows @ pull), f"{fitted.blocked.inverse.verdict}, of projected gradients"
    inverse = fitted.blocked.inverse.operator if fitted.structured and basis.own else None
    if basis.kind not in IN_EIGENBASIS or not isinstance(inverse, BlockDiagonal):
        solved = solve(fitted, measured)
        return solved.through(basis), solved.constant, solved.verdict
    theta = fitted.objective.theta
    pull = fitted.penalty_gradient.to(theta.device, torch.promote_types(theta.dtype, torch.float32))
    move = (pull @ inverse).unsqueeze(0)
    rows, along = [], []
    for tile in measured.tiles():
        rows.append(torch.cat(list(_in_basis(tile, basis, inverse)), 1))
        along.append(sum_of([layer.jvp(move) for layer in tile]).flatten(0, 1))
    constant = _constant(fitted, _gathered(measured, torch.cat(along))[:, 0])
    return _gathered(measured, torch.cat(rows)), constant, str(fitted.blocked.inverse.verdict)


def _in_basis(tile: tuple[LayerJacobian, ...], basis: Basis, inverse: BlockDiagonal) -> Iterator[Float[Tensor, "m r"]]:
    """f(Λ)∘t at the coordinates kept, or its side of the sketch, layer by layer, in the order of the projection."""
    found = {layer.layout.places: layer for layer in tile}
    blocks = {at.places: block for at, block in inverse.parts}
    chosen = basis.chosen or (None,) * len(basis.projection.parts)
    for (at, piece), places in zip(basis.projection.parts, chosen, strict=True):
        layer, block = found[at.places], blocks[at.places]
        known = _values_at(block, piece, places)
        if isinstance(piece, Hashed):  # f goes into the sketch
            piece = piece.opposite(1.0 if known is None else known)
        if known is None:
            yield torch.cat([piece.after(block.after(rows)).to(rows) for rows in _written_parts(layer)])
        else:
            rows = compressed_layer(layer, piece).flatten(0, 1)
            yield rows if isinstance(piece, Hashed) else rows * known


def _values_at(block: LinearOperator, piece: Projection, chosen: Tensor | None) -> Tensor | float | None:
    """f(Λ) at the coordinates kept, all of a sketch, where the inverse is diagonal in them."""
    match block, piece:
        case KroneckerEigen(), Sided():
            return block.values.flatten()[chosen]
        case KroneckerEigen(), Hashed():
            return block.values.flatten()
        case Diagonal(), Picked():
            return block.entries[chosen]
        case Diagonal(), Hashed():
            return block.entries
        case Scaled(base=Identity()), _:
            return block.factor
    return None


def _written_parts(layer: LayerJacobian) -> Iterator[Float[Tensor, "m q"]]:
    """Rows of a layer, one a query and component, as many at a time as fit."""
    size = chunk(2 * layer.slopes.shape[1] * layer.layout.width, layer.slopes.element_size())
    for chosen in torch.arange(len(layer), device=layer.slopes.device).split(size):
        yield written_rows(layer.select(chosen)).flatten(0, 1)  # pyright: ignore


def _gathered(measured: Measurement, rows: Float[Tensor, "x q"]) -> Float[Tensor, "m q"]:
    """Rows of every query and component, or over all queries where they are asked about together."""
    if measured.aggregate is None:
        return rows
    together = rows.view(len(measured.outputs), -1, rows.shape[1])
    return together.mean(0) if measured.aggregate == "mean" else together.sum(0)


def _constant(fitted: Fitted, along: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
    return along.double() * float(fitted.shares(fitted.weights.new_ones(1))[0])


def _type_of(piece: object, rows: Tensor) -> torch.dtype:
    return piece.left.dtype if isinstance(piece, Sided) else rows.dtype
