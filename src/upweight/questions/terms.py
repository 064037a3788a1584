"""Changes of weight, example by example, as tiles of Δψ and ΔH through the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from upweight._typing import Batch, Float, Tensor
from upweight.fitted import Fitted
from upweight.influence.changes import Changes
from upweight.objective import Examples, Loss
from upweight.objective.data import Chosen


@dataclass(frozen=True)
class Tile:
    """Changes that share one penalty share ρ, and the columns of the result they fill."""

    columns: slice | np.ndarray
    changes: Changes


def terms(
    fitted: Fitted,
    examples: Examples,
    amounts: Float[Tensor, "k"],
    pending: Float[Tensor, "p"] | None = None,
    own: bool = False,
) -> Iterator[tuple[slice, Changes]]:
    """For every example: εᵢ∇ℓᵢ and εᵢ∇²ℓᵢ through its outputs, εᵢ its amount of weight; no penalty share yet.

    ``pending`` asks for εᵢ(gᵢ − Hᵢs) instead, s the pending Newton step; ``own`` for this rank's part only.
    """
    loss = fitted.objective.loss
    for where, batch in fitted.engine.own_batches(examples) if own else fitted.engine.batches(examples):
        outputs, targets, jacobian = fitted.engine.linearised(batch, examples.ids[where])
        amount = amounts[where]
        push = loss.gradient(outputs, targets).double() * amount[:, None]
        changes = Changes(jacobian, push, partial(_bend, loss, outputs, targets, amount))
        if pending is not None:
            rest = _beyond_outputs(fitted, batch, changes, amount, pending)
            changes = replace(changes.moved(pending), rest=rest)
        yield where, changes


def _bend(loss: Loss, outputs: Tensor, targets: Tensor, amount: Float[Tensor, "k"]) -> Float[Tensor, "k o o"]:
    return loss.hessian(outputs, targets).double() * amount[:, None, None]


def point_tiles(
    fitted: Fitted,
    places: np.ndarray,
    amounts: Float[Tensor, "k"],
    pending: Float[Tensor, "p"] | None = None,
    own: bool = False,
) -> Iterator[Tile]:
    """Tiles that change the weight of single training points by these amounts; ``own`` for this rank's part of them."""
    examples = fitted.objective.examples
    everything = len(places) == len(examples) and bool((np.diff(places) == 1).all())
    yield from new_tiles(fitted, examples if everything else Chosen(examples, places), amounts, pending, own)


def new_tiles(
    fitted: Fitted,
    examples: Examples,
    amounts: Float[Tensor, "k"],
    pending: Float[Tensor, "p"] | None = None,
    own: bool = False,
) -> Iterator[Tile]:
    """Tiles that add these amounts of weight of any examples; ``own`` for this rank's part of them."""
    for where, changes in terms(fitted, examples, amounts, pending, own):
        yield from _by_share(changes, fitted.shares(amounts[where]), where)


def _beyond_outputs(fitted: Fitted, batch: Batch, changes: Changes, amount: Tensor, pending: Tensor) -> Tensor | None:
    """−εᵢ(Hᵢ − JᵢᵀΛᵢJᵢ)s: the model's own curvature, which a linear model has none of."""
    if fitted.linear:
        return None
    along = changes.jacobian.jvp(pending.unsqueeze(0))  # (k, o, 1)
    through = changes.block((changes.curvature @ along).squeeze(2)).dense()
    return through - amount[:, None] * fitted.engine.curvature_times(batch, pending).double()


def _by_share(changes: Changes, shares: Float[Tensor, "k"], columns: slice) -> Iterator[Tile]:
    """Cut a tile so that each part has one penalty share; one part when weights are equal."""
    if bool((shares == shares[0]).all()):
        yield Tile(columns, replace(changes, share=float(shares[0])))
        return
    for value in shares.unique():
        chosen = (shares == value).nonzero().squeeze(1)
        yield Tile(columns.start + chosen.cpu().numpy(), replace(changes, share=float(value)).select(chosen))
