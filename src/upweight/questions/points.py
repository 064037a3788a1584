"""Questions about single points: dropped, upweighted, relabelled, replaced, added; and how much each owns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.errors import ConfigError, ShapeError
from upweight.fitted import Fitted
from upweight.influence.changes import Changes
from upweight.influence.effects import Effects
from upweight.questions.answer import Chosen, Tile, new_tiles, point_tiles
from upweight.questions.ask import Ask
from upweight.tiles import DenseJacobian, Jacobian


def drop(ask: Ask, which: Any) -> Effects:
    """Leave each point out: its weight goes from wᵢ to 0."""
    places = ask.fitted.positions(which)
    answer = ask.answer(point_tiles(ask.fitted, places, -1.0, ask.pending), len(places))
    return ask.effects(answer, _ids(ask, places), "drop")


def upweight(ask: Ask, which: Any) -> Effects:
    """The derivative in each point's weight [KL17 eq. 2]."""
    if ask.measured is not None and ask.measured.over_set:
        raise ConfigError(
            f"upweight found measure={ask.measure!r}, which has no derivative. Expected a measure of each query; ask drop() for it."
        )
    places = ask.fitted.positions(which)
    answer = ask.answer(point_tiles(ask.fitted, places, 1.0, ask.pending, unit=True), len(places))
    return ask.effects(answer, _ids(ask, places), "upweight")


def parameters(ask: Ask, which: Any) -> Effects:
    """I_up,params, one row a point [KL17 A8-A10]."""
    found = upweight(ask, which)
    return replace(
        found, values=np.ascontiguousarray(found.values.T), query_ids=found.train_ids, train_ids=found.query_ids
    )


def relabel(ask: Ask, labels: Mapping[Any, Any]) -> Effects:
    """Give each point another label: {point: label}."""
    if not isinstance(labels, Mapping) or not labels:
        raise ConfigError(
            f"relabel found {labels!r}. Expected a dict {{training point: new label}} with at least one entry."
        )
    places = ask.fitted.positions(list(labels))
    answer = ask.answer(_relabelled(ask.fitted, places, list(labels.values())), len(places))
    return ask.effects(answer, _ids(ask, places), "relabel")


def replace_points(ask: Ask, which: Any, data: Any) -> Effects:
    """Put new examples in the place of points, one for one."""
    places = ask.fitted.positions(which)
    examples = ask.fitted.adapted.codec.read(data, "replacement")
    if len(examples) != len(places):
        raise ShapeError(
            f"replace found {len(examples)} new examples for {len(places)} training points. Expected one for each."
        )
    answer = ask.answer(_replaced(ask.fitted, places, examples), len(places))
    return ask.effects(answer, _ids(ask, places), "replace")


def add(ask: Ask, data: Any) -> Effects:
    """Add each new example with the mean weight of the training set."""
    examples = ask.fitted.adapted.codec.read(data, "added data")
    weight = ask.fitted.objective.total_weight / ask.fitted.objective.count
    return ask.effects(ask.answer(new_tiles(ask.fitted, examples, weight), len(examples)), examples.ids, "add")


def self_influence(fitted: Fitted) -> np.ndarray:
    """wᵢ gᵢᵀH⁻¹gᵢ, (n,)."""
    return _own(
        fitted,
        lambda changes, coupling: torch.einsum("ko,kop,kp->k", changes.push, coupling, changes.push),
        weighted_once=True,
    )


def leverage(fitted: Fitted) -> np.ndarray:
    """wᵢ tr(ΛᵢAᵢ), (n,)."""
    return _own(
        fitted, lambda changes, coupling: torch.einsum("kop,kpo->k", changes.curvature, coupling), weighted_once=False
    )


def _own(fitted: Fitted, of: Any, weighted_once: bool) -> np.ndarray:
    """A number of each point from its own Jᵢ H⁻¹ Jᵢᵀ; squares of the push carry wᵢ², so one wᵢ is taken back."""
    found = np.zeros(fitted.objective.count)
    for tile in point_tiles(fitted, np.arange(fitted.objective.count), 1.0, unit=weighted_once):
        values = of(tile.changes, tile.changes.jacobian.sandwich(fitted.inverse))
        found[tile.columns] = values.cpu().numpy()
    return found * fitted.weights.cpu().numpy() if weighted_once else found


def _ids(ask: Ask, places: np.ndarray) -> np.ndarray:
    return ask.fitted.objective.examples.ids[places]


def _relabelled(fitted: Fitted, places: np.ndarray, labels: list[Any]) -> Iterator[Tile]:
    loss, trailing, codec = fitted.objective.loss, fitted.objective.trailing, fitted.adapted.codec
    part = Chosen(fitted.objective.examples, places)
    for where, batch in fitted.engine.batches(part):
        outputs, targets = fitted.engine.outputs(batch)
        given = targets.reshape(len(targets), *trailing) if targets.shape == outputs.shape else targets
        wanted = torch.stack([codec.target(label, like) for label, like in zip(labels[where], given, strict=True)])
        changed = loss.prepare(outputs.reshape(len(outputs), *trailing), wanted, part.ids[where])[1]
        weights = fitted.weights[places[where]]
        push = (loss.gradient(outputs, changed) - loss.gradient(outputs, targets)).double() * weights[:, None]
        curvature = (loss.hessian(outputs, changed) - loss.hessian(outputs, targets)).double() * weights[:, None, None]
        yield Tile(where, Changes(fitted.engine.jacobian(batch), push, curvature))


def _replaced(fitted: Fitted, places: np.ndarray, examples: Any) -> Iterator[Tile]:
    """Old and new outputs stacked: the old one's loss leaves, the new one's comes."""
    weights = fitted.weights[places]
    old = _terms(fitted, Chosen(fitted.objective.examples, places), -weights)
    new = _terms(fitted, examples, weights)
    for (where, j, a, m), (_, j_new, a_new, m_new) in zip(old, new, strict=True):
        jacobian = DenseJacobian(torch.cat([j.dense(), j_new.dense()], 1))
        curvature = torch.stack([torch.block_diag(*pair) for pair in zip(m, m_new, strict=True)])
        yield Tile(where, Changes(jacobian, torch.cat([a, a_new], 1), curvature))


def _terms(fitted: Fitted, examples: Any, weights: Tensor) -> Iterator[tuple[slice, Jacobian, Tensor, Tensor]]:
    loss = fitted.objective.loss
    for where, batch in fitted.engine.batches(examples):
        outputs, targets = fitted.engine.outputs(batch, names=examples.ids[where])
        push = loss.gradient(outputs, targets).double() * weights[where, None]
        yield (
            where,
            fitted.engine.jacobian(batch),
            push,
            loss.hessian(outputs, targets).double() * weights[where, None, None],
        )
