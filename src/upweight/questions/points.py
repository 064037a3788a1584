"""Questions about single points: dropped, upweighted, relabelled, replaced, added; how much each owns; the undropped step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.curvature.fisher import MOST_LABELS
from upweight.errors import ApproximationWarning, ConfigError, NonFiniteGradient, ShapeError, plain, warn
from upweight.fitted import Fitted
from upweight.float32_products import fast_float32
from upweight.influence.changes import Changes
from upweight.influence.effects import Effects
from upweight.influence.newton import NewtonStep, stacked, undropped_step
from upweight.influence.parameters import ParameterInfluence
from upweight.objective import Examples
from upweight.objective.data import Chosen
from upweight.objective.draws import Draws
from upweight.questions.question import Question
from upweight.questions.terms import Tile, new_tiles, point_tiles, terms
from upweight.tiles import DenseJacobian, Jacobian
from upweight.tiles.layer_jacobians import JacobianSum, PlacedJacobian, layer_sandwich, sum_of


def drop(question: Question, which: Any) -> Effects:
    """Leave each point out: its weight goes from wᵢ to 0."""
    fitted = question.fitted
    places = fitted.positions(which)
    tiles = partial(point_tiles, fitted, places, -fitted.weights[places], question.pending)
    answer = question.shared_answer(tiles, len(places))
    return question.effects(answer, _ids(question, places), "drop", tiles)


def upweight(question: Question, which: Any) -> Effects:
    """The derivative in each point's weight [KL17 eq. 2]."""
    first = replace(question, query=question.parts[0]).measured if len(question.parts) > 1 else question.measured
    if first is not None and first.over_set:
        raise ConfigError(
            f"upweight found measure={question.measure!r}, which has no derivative. Expected a measure of each query; ask drop() for it."
        )
    places = question.fitted.positions(which)
    units = torch.ones_like(question.fitted.weights[places])
    tiles = partial(point_tiles, question.fitted, places, units, question.pending)
    answer = question.shared_answer(tiles, len(places))
    return question.effects(answer, _ids(question, places), "upweight", tiles)


def parameters(question: Question, which: Any) -> ParameterInfluence:
    """I_up,params, one row a point [KL17 A8-A10]."""
    found = upweight(question, which)
    return ParameterInfluence(
        values=np.ascontiguousarray(found.values.T),
        train_ids=found.train_ids,
        names=found.query_ids,
        estimand=found.estimand,
        unit=found.unit,
        protocol=found.protocol,
        verdict=found.verdict,
        notes=found.notes,
    )


def relabel(question: Question, labels: Any) -> Effects:
    """Give each point another label: {point: label}."""
    labels = labels.to_dict() if hasattr(labels, "to_dict") else labels  # pyright: ignore
    if not isinstance(labels, Mapping) or not labels:
        raise ConfigError(
            f"relabel found {labels!r}. Expected a dict {{training point: new label}} with at least one entry."
        )
    places = question.fitted.positions(list(labels))
    tiles = partial(_relabelled, question.fitted, places, list(labels.values()))
    answer = question.answer(tiles(), len(places))
    return question.effects(answer, _ids(question, places), "relabel", tiles)


def replace_points(question: Question, which: Any, data: Any) -> Effects:
    """Put new examples in the place of points, one for one."""
    places = question.fitted.positions(which)
    examples = question.fitted.adapted.codec.read(data, "replacement")
    if len(examples) != len(places):
        raise ShapeError(
            f"replace found {len(examples)} new examples for {len(places)} training points. Expected one for each; name as many points in which=."
        )
    tiles = partial(_replaced, question.fitted, places, examples)
    answer = question.answer(tiles(), len(places))
    return question.effects(answer, _ids(question, places), "replace", tiles)


def add(question: Question, data: Any) -> Effects:
    """Add each new example with the mean weight of the training set."""
    fitted = question.fitted
    examples = fitted.adapted.codec.read(data, "added data")
    weight = fitted.objective.total_weight / fitted.objective.count
    amounts = torch.full((len(examples),), weight, dtype=torch.float64, device=fitted.weights.device)
    tiles = partial(new_tiles, fitted, examples, amounts)
    answer = question.shared_answer(tiles, len(examples))
    return question.effects(answer, examples.ids, "add", tiles)


def self_influence(fitted: Fitted) -> np.ndarray:
    """wᵢ gᵢᵀH⁻¹gᵢ, (n,)."""
    fitted.stationarity.warn()
    _say_what_stands_in(fitted)
    if fitted.structured or fitted.stands_in:
        slopes = lambda outputs, targets, _: fitted.objective.loss.gradient(outputs, targets)  # noqa: E731
        return _own_of_blocks(fitted, slopes) * fitted.weights.cpu().numpy()
    units = torch.ones_like(fitted.weights)
    own = _own(fitted, units, lambda changes, a: torch.einsum("ko,kox,kx->k", changes.push, a, changes.push))
    return own * fitted.weights.cpu().numpy()


def leverage(fitted: Fitted, aloud: bool = True) -> np.ndarray:
    """wᵢ tr(ΛᵢAᵢ), (n,); where outputs are many, wᵢ uᵀAᵢu for one sampled label's u, whose mean that is."""
    if aloud:
        _say_what_stands_in(fitted)
    if (fitted.structured or fitted.stands_in) and fitted.objective.outputs > MOST_LABELS:
        return _own_of_blocks(fitted, _sampled(fitted)) * fitted.weights.cpu().numpy()
    return _own(fitted, fitted.weights, lambda changes, a: torch.einsum("kox,kxo->k", changes.curvature, a))


def newton_step(fitted: Fitted, which: Any, epsilon: float) -> NewtonStep:
    """A7 at each point, and its A11 split; H is the exact Hessian, with the study's damping where it has one.

    Raises:
        ConfigError: the study's curvature is another matrix.
    """
    if fitted.kind != "hessian":
        raise ConfigError(
            f"newton_step found curvature={fitted.kind!r}. Expected the exact Hessian: build the study with curvature='hessian'."
        )
    places, share = fitted.positions(which), fitted.share(1.0)
    whole = fitted.exact.curvature.matrix.clone()
    whole.diagonal().add_(fitted.exact.damping)
    steps, rows = [], []
    for place in places:
        one = Chosen(fitted.objective.examples, np.asarray([place]))
        weight = torch.ones(1, dtype=torch.float64, device=fitted.weights.device)
        row = fitted.engine.gradient(weight, examples=one) + share * fitted.penalty_gradient
        curvature = fitted.engine.hessian(one, weight)
        curvature.diagonal().add_(share * fitted.objective.penalty.diagonal.to(curvature))
        gradient = fitted.gradient
        steps.append(
            undropped_step(
                whole,
                gradient,
                curvature,
                row,
                float(epsilon),
                fitted.exact.gauge,
                symmetric=not fitted.objective.saddle,
            )
        )
        rows.append(row)
    constant = stacked([-fitted.pending] * len(places))
    contribution = float(epsilon) * stacked([-(row @ fitted.exact.inverse.T) for row in rows])
    ids = fitted.objective.examples.ids[places]
    return NewtonStep(ids, float(epsilon), stacked(steps), constant, contribution, fitted.exact.damping)


def _say_what_stands_in(fitted: Fitted) -> None:
    """These answers carry no verdict, so another matrix than the study's is said aloud."""
    if fitted.stands_in:
        warn(
            f"solver={fitted.settings.solver_name!r} only multiplies the {fitted.kind}; EK-FAC stands in for it at each point's own. Expected solver='woodbury' or 'cholesky' for the exact answer; take curvature='ekfac' to ask for this one.",
            ApproximationWarning,
        )


def _own(fitted: Fitted, amounts: Tensor, of: Callable[[Changes, Float[Tensor, "k o o"]], Tensor]) -> np.ndarray:
    """A number of each point from its own Jᵢ H⁻¹ Jᵢᵀ."""
    inverse, found = fitted.own_inverse(0.0), torch.zeros_like(fitted.weights)
    with fitted.objective.fold.phase("own terms"):
        for where, changes in terms(fitted, fitted.objective.examples, amounts, own=True):
            found[where] = of(changes, changes.jacobian.sandwich(inverse).double()).to(found)
    fitted.objective.fold.sum("own terms", [found])
    return _finite(fitted, found)


def _finite(fitted: Fitted, values: Float[Tensor, "n"]) -> np.ndarray:
    """A number of each point as an array; no NaN leaves in silence."""
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        name = plain(fitted.objective.examples.ids[int(bad.nonzero()[0])])
        raise NonFiniteGradient(
            f"training point {name!r} has a value of {float(values[bad][0])} ({int(bad.sum())} of {len(values)} are not finite). Expected finite inputs and targets; look at this example, or leave it out."
        )
    return values.cpu().numpy()


def _sampled(fitted: Fitted) -> Callable[[Tensor, Tensor, slice], Tensor]:
    """The slope of one sampled label of every example."""

    def slopes(outputs: Tensor, targets: Tensor, where: slice) -> Tensor:
        draws = Draws(fitted.settings.seed, np.arange(where.start, where.stop))
        return fitted.objective.loss.sampled(outputs, targets, draws)

    return slopes


def _own_of_blocks(fitted: Fitted, slopes: Callable[[Tensor, Tensor, slice], Tensor]) -> np.ndarray:
    """vᵢᵀPvᵢ with vᵢ = Jᵢᵀ·slopes, layer by layer: one backward pass an example, and nothing of size p."""
    blocks = {layout.places: block for layout, block in fitted.blocked.operator.parts}
    found = torch.zeros_like(fitted.weights)
    with fitted.objective.fold.phase("own terms"):
        for where, batch in fitted.engine.own_batches():
            squares = fitted.blocked.squares.get((where.start, where.stop), {})  # as far as the fit had them in memory
            outputs, targets, jacobian = fitted.engine.linearised(batch, fitted.objective.examples.ids[where])
            layers = jacobian.pulled([slopes(outputs, targets, where)])
            with fast_float32():
                own = [
                    layer_sandwich(layer, blocks[(at := layer.layout.places)], squares.get(at)).double()
                    for layer in layers
                ]
            found[where] = sum_of(own)[:, 0, 0]
    fitted.objective.fold.sum("own terms", [found])
    return _finite(fitted, found)


def _ids(question: Question, places: np.ndarray) -> np.ndarray:
    return question.fitted.objective.examples.ids[places]


def _relabelled(fitted: Fitted, places: np.ndarray, labels: list[Any]) -> Iterator[Tile]:
    loss, trailing, codec = fitted.objective.loss, fitted.objective.trailing, fitted.adapted.codec
    part = Chosen(fitted.objective.examples, places)
    for where, batch in fitted.engine.batches(part):
        outputs, targets, jacobian = fitted.engine.linearised(batch, part.ids[where])
        given = targets.reshape(len(targets), *trailing) if targets.shape == outputs.shape else targets
        wanted = torch.stack([codec.target(label, like) for label, like in zip(labels[where], given, strict=True)])
        changed = loss.prepare(outputs.reshape(len(outputs), *trailing), wanted, part.ids[where])[1]
        weights = fitted.weights[places[where]]
        push = (loss.gradient(outputs, changed) - loss.gradient(outputs, targets)).double() * weights[:, None]

        def bend(outputs=outputs, changed=changed, targets=targets, weights=weights) -> Tensor:
            difference = loss.hessian(outputs, changed) - loss.hessian(outputs, targets)
            return difference.double() * weights[:, None, None]

        yield Tile(where, Changes(jacobian, push, bend))


def _replaced(fitted: Fitted, places: np.ndarray, examples: Examples) -> Iterator[Tile]:
    """Old and new outputs stacked: the old one's loss leaves, the new one's comes."""
    weights = fitted.weights[places]
    leaving = terms(fitted, Chosen(fitted.objective.examples, places), -weights)
    for (where, old), (_, new) in zip(leaving, terms(fitted, examples, weights), strict=True):
        jacobian = _by_blocks(fitted, torch.cat([old.jacobian.dense(), new.jacobian.dense()], 1))

        def bend(old=old, new=new) -> Tensor:
            pairs = zip(old.curvature, new.curvature, strict=True)
            return torch.stack([torch.block_diag(*pair) for pair in pairs])

        yield Tile(where, Changes(jacobian, torch.cat([old.push, new.push], 1), bend))


def _by_blocks(fitted: Fitted, values: Float[Tensor, "k o p"]) -> Jacobian:
    """A written-out Jacobian, cut along the blocks of structured curvature."""
    if not fitted.structured:
        return DenseJacobian(values)
    rows, blocks = values.flatten(0, 1), fitted.blocked.curvature.parts
    parts = [PlacedJacobian(at.gather(rows).view(*values.shape[:2], -1), at) for at, _ in blocks]
    return JacobianSum(tuple(parts))
