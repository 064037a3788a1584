"""Walk the changes tile by tile, answer each with a move of θ, and measure what the move does.

Three roads: first order, −TH⁻¹Cᵀ; every change's own Newton step, measured at the outputs it shifts;
and first-order moves measured at shifted outputs, for measures over a set that have no derivative.
Solves are made on the shorter side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.fitted import Fitted
from upweight.influence.changes import Changes, corrected
from upweight.questions.measuring import Measurement
from upweight.questions.sensitivity import damping_words
from upweight.questions.terms import Tile
from upweight.router import chunk
from upweight.solve import Verdict


@dataclass(frozen=True)
class Answer:
    """Values (r, k), their order, how H was inverted for them, and how many changes had to stay at first order."""

    values: Float[Tensor, "r k"]
    order: str
    verdict: Verdict
    refused: int = 0


DOUBLE, SHIFT_COPIES = 8, 4
"""Bytes of a number, and arrays of shifted outputs that are held while a measurement is taken at them."""


def first_order(
    fitted: Fitted, tiles: Iterable[Tile], count: int, rows: Float[Tensor, "r p"] | None, pull: Tensor
) -> Answer:
    """−T H⁻¹ Cᵀ; rows=None means the parameters themselves, T = I."""
    if rows is None and (fitted.structured or fitted.iterates):
        return _moves_of(fitted, tiles, count, pull)
    if rows is None:
        solved, verdict = fitted.exact.inverse.dense(), fitted.exact.inverse.verdict
    else:
        solution = fitted.row_inverse(len(rows)).solve(rows)
        solved, verdict = solution.rows, solution.verdict
    values = torch.zeros(count, len(solved), dtype=torch.float64)  # a change is a row while it is filled
    for tile in tiles:
        values[tile.columns] = products_of(tile.changes, tile.changes.push, solved, pull).neg_().cpu()
    return Answer(values.T, "first", verdict)


def _moves_of(fitted: Fitted, tiles: Iterable[Tile], count: int, pull: Tensor) -> Answer:
    """−C H⁻¹, the parameters themselves, where H⁻¹ is never written out: solved for on the side of the changes."""
    found, verdict = torch.zeros(count, fitted.objective.space.size, dtype=torch.float64), fitted.verdict
    for tile in tiles:
        solution = fitted.row_inverse(count).solve(_written(tile.changes, tile.changes.push, pull))
        found[tile.columns], verdict = -solution.rows.double().cpu(), solution.verdict
    return Answer(found.T, "first", verdict)


def by_layers(fitted: Fitted, tiles: Iterable[Tile], count: int, measured: Measurement, pull: Tensor) -> Answer:
    """−T P Cᵀ for a block-diagonal P: pairs of queries and changes from their factors, and nothing of size m × p."""
    operator = fitted.blocked.operator
    pairs, shared, values, words = None, None, torch.zeros(0), ""
    for tile in tiles:
        block = tile.changes.block()
        if pairs is None:
            pairs = fitted.pairs(measured.layers(), count)
            values = torch.zeros(count, pairs.count, dtype=torch.float64)
            words = damping_words(fitted, measured, lambda block=block: block)
        found = pairs.against(block)
        if tile.changes.share:
            shared = measured.along(pull.to(found.dtype) @ operator) if shared is None else shared
            found = found + tile.changes.share * shared
        values[tile.columns] = found.neg_().double().cpu()
    assert pairs is not None
    verdict = fitted.blocked.inverse.verdict
    return Answer(values.T, "first", replace(verdict, method=f"{verdict.method}{words}; {pairs.rules}"))


def at_newton_steps(
    fitted: Fitted, tiles: Iterable[Tile], count: int, measured: Measurement | None, pull: Tensor
) -> Answer:
    """Every change's own Newton step, measured at shifted outputs; measured=None returns the steps."""
    results, refused, words = None, 0, None
    sides: dict[float, Callable[[Changes, Tensor], Tensor]] = {}
    for tile in _cut(fitted, tiles, measured):
        share = tile.changes.share
        words = damping_words(fitted, measured, tile.changes.block) if words is None else words
        correction = corrected(tile.changes, fitted.own_inverse(share), pull if share else None)
        refused += int(correction.refused.sum())
        if share not in sides:
            sides = {share: _side(fitted, measured, share, count, pull)}
        found = sides[share](tile.changes, correction.push)
        results = torch.zeros(count, len(found), dtype=torch.float64) if results is None else results
        results[tile.columns] = found.T.cpu()
    assert results is not None
    own = fitted.own_verdict
    return Answer(results.T, "newton", replace(own, method=f"{own.method}{words}"), refused)


def at_first_moves(fitted: Fitted, tiles: Iterable[Tile], count: int, measured: Measurement, pull: Tensor) -> Answer:
    """First-order moves −H⁻¹Cᵀ with the measurement taken at shifted outputs."""
    side, results, verdict = None, torch.zeros(1, count, dtype=torch.float64), fitted.verdict
    if fitted.iterates:
        solution = fitted.row_inverse(measured.outputs.numel()).solve(measured.output_rows())
        side, verdict = partial(_shifted, measured, solution.rows, pull), solution.verdict
    for tile in _cut(fitted, tiles, measured):
        side = side or _side(fitted, measured, 0.0, count, pull)
        results[:, tile.columns] = side(tile.changes, tile.changes.push).cpu()
    return Answer(results, "first", verdict)


def _cut(fitted: Fitted, tiles: Iterable[Tile], measured: Measurement | None) -> Iterator[Tile]:
    """Tiles of so few changes that what they shift the outputs of all queries by fits into a quarter of the memory."""
    numbers = fitted.objective.space.size if measured is None else measured.outputs.numel()
    size = chunk(SHIFT_COPIES * numbers, DOUBLE, fitted.objective.room.queries)
    for tile in tiles:
        count = len(tile.changes.push)
        if count <= size:
            yield tile
            continue
        columns = tile.columns
        places = np.arange(columns.start, columns.stop) if isinstance(columns, slice) else columns
        for start in range(0, count, size):
            chosen = torch.arange(start, min(start + size, count), device=tile.changes.push.device)
            yield Tile(places[start : start + size], tile.changes.select(chosen))


def _shifted(
    measured: Measurement, solved: Float[Tensor, "r p"], pull: Tensor, changes: Changes, push: Tensor
) -> Tensor:
    """The measurement at outputs shifted by −J_q H⁻¹Jᵀu, from the solved output rows."""
    shape = tuple(measured.outputs.shape)
    return measured.at_shifts(-products_of(changes, push, solved, pull).T.view(*shape, -1))


def _side(
    fitted: Fitted, measured: Measurement | None, share: float, count: int, pull: Tensor
) -> Callable[[Changes, Tensor], Tensor]:
    """(changes, push) ↦ results (r, k), solving for the outputs of the queries or for the changes, whichever are fewer."""
    if fitted.structured and measured is not None:
        return _side_by_layers(fitted, measured, count, pull)
    inverse = fitted.own_inverse(share)
    if measured is None:
        return lambda changes, push: -products_of(changes, push, inverse.dense(), pull).T
    if measured.outputs.numel() <= count:
        return partial(_shifted, measured, measured.output_rows() @ inverse, pull)
    return lambda changes, push: measured.at_moves(-(_written(changes, push, pull) @ inverse.T))


def _side_by_layers(
    fitted: Fitted, measured: Measurement, count: int, pull: Tensor
) -> Callable[[Changes, Tensor], Tensor]:
    """(changes, push) ↦ results (r, k) at outputs shifted by −J_q P Jᵀu, from the factors of both."""
    operator = fitted.blocked.operator
    pairs = fitted.pairs(measured.output_layers(), count)
    shape = tuple(measured.outputs.shape)
    moved = torch.cat([j.jvp((pull @ operator).to(measured.outputs.dtype).unsqueeze(0)) for j in measured.jacobians])

    def side(changes: Changes, push: Tensor) -> Tensor:
        shifts = pairs.against(changes.block(push.to(measured.outputs.dtype))).double().T.view(*shape, -1)
        return measured.at_shifts(-(shifts + changes.share * moved.double()))

    return side


def products_of(changes: Changes, push: Tensor, solved: Float[Tensor, "r p"], pull: Tensor) -> Float[Tensor, "k r"]:
    """⟨Jᵀu + ρ pull + rest, row⟩ for every change and every solved row."""
    found = changes.block(push).against(solved)
    if changes.share:
        found = found + changes.share * (solved @ pull)
    return found if changes.rest is None else found + changes.rest @ solved.T


def _written(changes: Changes, push: Tensor, pull: Tensor) -> Float[Tensor, "k p"]:
    rows = changes.block(push).dense().double()
    rows = rows + changes.share * pull if changes.share else rows
    return rows if changes.rest is None else rows + changes.rest
