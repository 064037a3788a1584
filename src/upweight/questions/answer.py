"""Walk the changes tile by tile, answer each with a move of θ, and measure what the move does.

Two roads, chosen by `order`: 'first' is −TH⁻¹Cᵀ; 'newton' answers every change with its own Newton
step and takes the measurement at the outputs it shifts. Solves are made on the shorter side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.fitted import Fitted
from upweight.gradients import LinearEngine
from upweight.influence.changes import Changes, corrected
from upweight.objective import Examples
from upweight.questions.measuring import Measurement


@dataclass(frozen=True)
class Tile:
    """Changes that share one penalty share ρ, and the columns of the result they fill."""

    columns: slice | np.ndarray
    changes: Changes


@dataclass(frozen=True)
class Answer:
    """Values (r, k), and how many changes had to stay at first order."""

    values: Float[Tensor, "r k"]
    refused: int = 0
    solved_by: str = ""


def first_order(
    fitted: Fitted, tiles: Iterable[Tile], count: int, rows: Float[Tensor, "r p"] | None, pull: Tensor
) -> Answer:
    """−T H⁻¹ Cᵀ; rows=None means the parameters themselves, T = I."""
    if rows is None:
        inverse, solved = fitted.inverse, fitted.inverse.dense()
    else:
        inverse = fitted.row_inverse(len(rows))
        solved = rows @ inverse  # (r, p)
    values = torch.empty(count, len(solved), dtype=torch.float64)  # a change is a row while it is filled
    for tile in tiles:
        values[tile.columns] = _products(tile.changes, tile.changes.push, solved, pull).neg_().cpu()
    return Answer(values.T, solved_by=str(inverse.verdict))


def at_newton_steps(
    fitted: Fitted, tiles: Iterable[Tile], count: int, measured: Measurement | None, pull: Tensor
) -> Answer:
    """Every change's own Newton step, measured at shifted outputs; measured=None returns the steps."""
    results, refused = None, 0
    sides: dict[float, Callable[[Changes, Tensor], Tensor]] = {}
    for tile in tiles:
        share = tile.changes.share
        solver = fitted.inverse_with(share)
        correction = corrected(tile.changes, solver, pull if share else None)
        refused += int(correction.refused.sum())
        if share not in sides:
            sides = {share: _side(fitted, measured, share, count, pull)}
        found = sides[share](tile.changes, correction.push)
        results = torch.empty(count, len(found), dtype=torch.float64) if results is None else results
        results[tile.columns] = found.T.cpu()
    assert results is not None
    return Answer(results.T, refused, str(fitted.inverse.verdict))


def at_first_moves(fitted: Fitted, tiles: Iterable[Tile], count: int, measured: Measurement, pull: Tensor) -> Answer:
    """First-order moves −H⁻¹Cᵀ with the measurement taken at shifted outputs: for set measures."""
    side = _side(fitted, measured, 0.0, count, pull)
    results = torch.empty(1, count, dtype=torch.float64)
    for tile in tiles:
        results[:, tile.columns] = side(tile.changes, tile.changes.push).cpu()
    return Answer(results, solved_by=str(fitted.inverse.verdict))


def _side(
    fitted: Fitted, measured: Measurement | None, share: float, count: int, pull: Tensor
) -> Callable[[Changes, Tensor], Tensor]:
    """(changes, push) ↦ results (r, k), solving for the outputs of the queries or for the changes, whichever are fewer."""
    inverse = fitted.inverse_with(share)
    if measured is None:
        return lambda changes, push: -_products(changes, push, inverse.dense(), pull).T
    if measured.outputs.numel() <= count:
        solved = measured.output_rows() @ inverse  # (m·o, p)
        shape = tuple(measured.outputs.shape)
        return lambda changes, push: measured.at_shifts(-_products(changes, push, solved, pull).T.view(*shape, -1))
    return lambda changes, push: measured.at_moves(-(_written(changes, push, pull) @ inverse.T))


def _products(changes: Changes, push: Tensor, solved: Float[Tensor, "r p"], pull: Tensor) -> Float[Tensor, "k r"]:
    """⟨Jᵀu + ρ pull + rest, row⟩ for every change and every solved row."""
    found = changes.block(push).against(solved)
    if changes.share:
        found = found + changes.share * (solved @ pull)
    return found if changes.rest is None else found + changes.rest @ solved.T


def _written(changes: Changes, push: Tensor, pull: Tensor) -> Float[Tensor, "k p"]:
    rows = changes.block(push).dense().double()
    rows = rows + changes.share * pull if changes.share else rows
    return rows if changes.rest is None else rows + changes.rest


def point_tiles(
    fitted: Fitted, which: np.ndarray, sign: float = -1.0, pending: Tensor | None = None, unit: bool = False
) -> Iterator[Tile]:
    """Changes of weight of single training points: sign·wᵢ, or one unit each; ``pending`` asks for gᵢ − Hᵢs."""
    everything = len(which) == fitted.objective.count and bool((np.diff(which) == 1).all())
    if everything:
        yield from _weighed(fitted, fitted.objective.examples, fitted.weights, 0, sign, pending, unit)
        return
    for start in range(0, len(which), fitted.engine.tile):
        chosen = which[start : start + fitted.engine.tile]
        part = Chosen(fitted.objective.examples, chosen)
        yield from _weighed(fitted, part, fitted.weights[chosen], start, sign, pending, unit)


def new_tiles(fitted: Fitted, examples: Examples, weight: float) -> Iterator[Tile]:
    """Changes that add new examples, each of this weight."""
    weights = torch.full((len(examples),), weight, dtype=torch.float64, device=fitted.weights.device)
    yield from _weighed(fitted, examples, weights, 0, 1.0, None, False)


@dataclass(frozen=True)
class Chosen(Examples):
    """Some examples of a set, in the order asked for."""

    source: Examples
    places: np.ndarray

    @property
    def ids(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.source.ids[self.places]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, where: slice | np.ndarray) -> object:
        return self.source.read(self.places[where])


def _weighed(
    fitted: Fitted,
    examples: Examples,
    weights: Tensor,
    offset: int,
    sign: float,
    pending: Tensor | None,
    unit: bool,
) -> Iterator[Tile]:
    amounts = torch.full_like(weights, sign) if unit else sign * weights
    for where, batch in fitted.engine.batches(examples):
        outputs, targets = fitted.engine.outputs(batch, names=examples.ids[where])
        loss, amount = fitted.objective.loss, amounts[where]
        slopes = loss.gradient(outputs, targets).double() * amount[:, None]
        curvature = loss.hessian(outputs, targets).double() * amount[:, None, None]
        changes = Changes(fitted.engine.jacobian(batch), slopes, curvature)
        if pending is not None:
            changes = replace(changes.moved(pending), rest=_beyond_outputs(fitted, batch, changes, amount, pending))
        yield from _by_share(changes, fitted.shares(amount), slice(offset + where.start, offset + where.stop))


def _beyond_outputs(fitted: Fitted, batch: object, changes: Changes, amount: Tensor, pending: Tensor) -> Tensor | None:
    """−εᵢ(Hᵢ − JᵢᵀΛᵢJᵢ)s: the model's own curvature, which a linear model has none of."""
    if isinstance(fitted.engine, LinearEngine):
        return None
    along = changes.jacobian.jvp(pending.unsqueeze(0))  # (k, o, 1)
    through = changes.block((changes.curvature @ along).squeeze(2)).dense()
    return through - amount[:, None] * fitted.engine.curvature_times(batch, pending).double()


def _by_share(changes: Changes, shares: Tensor, columns: slice) -> Iterator[Tile]:
    """Cut a tile so that each part has one penalty share; one part when weights are equal."""
    if bool((shares == shares[0]).all()):
        yield Tile(columns, replace(changes, share=float(shares[0])))
        return
    for value in shares.unique():
        chosen = (shares == value).nonzero().squeeze(1)
        yield Tile(columns.start + chosen.cpu().numpy(), select(replace(changes, share=float(value)), chosen))


def select(changes: Changes, chosen: Tensor) -> Changes:
    """Some of the changes of a tile."""
    rest = None if changes.rest is None else changes.rest[chosen]
    return Changes(
        changes.jacobian.select(chosen), changes.push[chosen], changes.curvature[chosen], changes.share, rest
    )
