"""First-order answers cut along the modules that hold the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.questions.answer import products_of
from upweight.questions.terms import Tile
from upweight.tiles.pairs import parts_of

if TYPE_CHECKING:
    from upweight.questions.question import Question

Split = tuple[tuple[str, ...], np.ndarray]
"""Names of modules, and what each of them adds, (modules, r, k)."""


def by_modules(question: Question, tiles: Callable[[], Iterable[Tile]], count: int) -> Split:
    """−(TH⁻¹)_module·C_module for every module: the scoring pass again, each product kept by module."""
    fresh = replace(question)  # the query's own pass is taken again too, so that no effects keep its graph alive
    measured, fitted = fresh.measured, fresh.fitted
    if measured is not None and measured.aggregate is None and _blocks_within_modules(fresh):
        return _by_blocks(fresh, tiles(), count)
    if measured is None:
        solved = fitted.exact.inverse.dense()
    else:
        rows = measured.rows()
        solved = fitted.row_inverse(len(rows)).solve(rows).rows
    masks = _masks(fresh).to(solved)
    values = torch.empty(len(masks), count, len(solved), dtype=torch.float64)
    for tile in tiles():
        for place, mask in enumerate(masks):
            changes = tile.changes
            values[place, tile.columns] = -products_of(changes, changes.push, solved * mask, fresh.pull).double().cpu()
    return _named(fresh, values)


def _by_blocks(question: Question, tiles: Iterable[Tile], count: int) -> Split:
    """The same from the factors of layers: the pairs of ``answer.by_layers``, added up module by module."""
    fitted, measured = question.fitted, question.measured
    operator = fitted.blocked.operator
    assert measured is not None
    homes = fitted.objective.space.homes()
    names = tuple(dict.fromkeys(homes.values()))
    pairs, shared, values = None, None, torch.empty(0)
    for tile in tiles:
        block = tile.changes.block()
        if pairs is None:
            pairs = fitted.pairs(measured.layers(), count)
            values = torch.zeros(len(names), count, pairs.count, dtype=torch.float64)
        for part in parts_of(block):
            place = names.index(homes[part.layout.places[0][0]])
            values[place, tile.columns] -= pairs.layers[part.layout.places].against(part).double().cpu()
        if tile.changes.share:
            if shared is None:
                move = question.pull.to(measured.outputs.dtype) @ operator
                shared = torch.stack([measured.along(mask.to(move) * move) for mask in _masks(question)])
            values[:, tile.columns] -= tile.changes.share * shared.double().cpu().unsqueeze(1)
    return _named(question, values)


def _blocks_within_modules(question: Question) -> bool:
    """Structured curvature none of whose blocks holds parameters of two modules."""
    fitted = question.fitted
    homes, parts = fitted.objective.space.homes(), fitted.blocked.curvature.parts if fitted.structured else ()
    spans = [{homes[at] for at in homes for a, b in layout.places if a <= at < b} for layout, _ in parts]
    return fitted.structured and all(len(span) == 1 for span in spans)


def _masks(question: Question) -> Float[Tensor, "modules p"]:
    """One where a coordinate of θ belongs to a module."""
    space = question.fitted.objective.space
    homes, slices = space.homes(), space.slices()
    names = list(dict.fromkeys(homes.values()))
    masks = torch.zeros(len(names), space.size, dtype=torch.float64)
    for where in slices.values():
        masks[names.index(homes[where.start]), where] = 1.0
    return masks


def _named(question: Question, values: Tensor) -> Split:
    names = tuple(dict.fromkeys(question.fitted.objective.space.homes().values()))
    return names, values.transpose(1, 2).numpy()
