"""Questions about the whole objective: groups left out, other weights, another penalty, the undropped step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.curvature import shift_gauge
from upweight.errors import ConfigError, IndefiniteCurvature, NonFiniteInput, ShapeError
from upweight.fitted import Fitted
from upweight.gradients import LinearEngine
from upweight.influence.changes import Changes, corrected
from upweight.influence.effects import Effects
from upweight.influence.newton import NewtonStep, retained_step, stacked, undropped_step
from upweight.linop import Dense
from upweight.objective import Examples, Penalty, read_penalty
from upweight.questions.answer import Chosen
from upweight.questions.ask import Ask
from upweight.solve import inverse
from upweight.tiles import DenseJacobian


@dataclass(frozen=True)
class Reweighting:
    """Amounts added to the weights of some training points; all at once they are one change."""

    examples: Examples
    amounts: Float[Tensor, "s"]
    places: np.ndarray
    name: str


def drop_group(ask: Ask, groups: Any) -> Effects:
    """Leave whole groups out."""
    names, members = read_groups(ask.fitted, groups)
    objective = ask.fitted.objective
    changes = [
        Reweighting(Chosen(objective.examples, m), -objective.weights[m], m, f"group {name!r} is left out")
        for name, m in zip(names, members, strict=True)
    ]
    return _answer(ask, changes, names, "drop_group")


def reweight(ask: Ask, weights: Any) -> Effects:
    """Give the whole training set other weights."""
    objective = ask.fitted.objective
    wanted = np.atleast_2d(np.asarray(weights, dtype=float))
    if wanted.shape[1] != objective.count:
        raise ShapeError(
            f"reweight found weights of shape {np.shape(weights)}. Expected (k, {objective.count}): a weight for every training point, in the unit of the study's weights."
        )
    if not np.isfinite(wanted).all():
        raise NonFiniteInput("reweight found weights that are NaN or infinite. Expected finite weights.")
    names = np.asarray([getattr(weights, "name", None) or k for k in range(len(wanted))])
    everyone = np.arange(objective.count)
    amounts = torch.as_tensor(wanted, device=objective.weights.device) - objective.weights
    changes = [
        Reweighting(objective.examples, row, everyone, f"reweighting {name}")
        for name, row in zip(names, amounts, strict=True)
    ]
    return _answer(ask, changes, names, "reweight")


def change_penalty(ask: Ask, penalty: Penalty | Sequence[Any]) -> Effects:
    """Refit with another penalty."""
    fitted = ask.fitted
    wanted = list(penalty) if isinstance(penalty, Sequence | np.ndarray) else [penalty]
    moves, twice = [], _twice(ask)
    for one in wanted:
        change = read_penalty(one, fitted.objective.space).diagonal.to(
            fitted.weights
        ) - fitted.objective.penalty.diagonal.to(fitted.weights)
        gradient = change * fitted.objective.theta.double()
        if ask.best_order == "first":
            moves.append(-(gradient @ fitted.inverse.T))
            continue
        move = _newton(fitted, torch.diag(change), gradient, f"changing the penalty to {one}")
        changed = fitted.objective.penalty.diagonal.to(change) + change
        moves.append(_second_step(fitted, move, fitted.weights, changed) if twice else move)
    return ask.effects(ask.of_moves(torch.stack(moves)), np.asarray([str(one) for one in wanted]), "change_penalty")


def newton_step(fitted: Fitted, which: Any, epsilon: float) -> NewtonStep:
    """A7 at each point, and its A11 split."""
    places = fitted.positions(which)
    share = float(fitted.shares(torch.tensor([1.0], dtype=torch.float64))[0])
    gradient, steps, rows = fitted.stationarity.gradient, [], []
    for place in places:
        one = Chosen(fitted.objective.examples, np.asarray([place]))
        weight = torch.ones(1, dtype=torch.float64, device=fitted.weights.device)
        row = _total_gradient(fitted, one, weight) + share * fitted.penalty_gradient
        curvature = fitted.engine.hessian(one, weight)
        curvature.diagonal().add_(share * fitted.objective.penalty.diagonal.to(curvature))
        steps.append(undropped_step(fitted.hessian.matrix, gradient, curvature, row, float(epsilon), fitted.gauge))
        rows.append(row)
    constant = stacked([-fitted.pending] * len(places))
    contribution = float(epsilon) * stacked([-(row @ fitted.inverse.T) for row in rows])
    return NewtonStep(fitted.objective.examples.ids[places], float(epsilon), stacked(steps), constant, contribution)


def read_groups(fitted: Fitted, groups: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Names and members of groups given as a list of lists, or as one label a training point.

    Raises:
        ConfigError: no group, an empty one, or labels of the wrong number.
    """
    found = list(groups)
    if found and all(isinstance(member, list | tuple | set | np.ndarray) for member in found):
        members = [fitted.positions(list(member)) for member in found if len(member)]
        if len(members) < len(found):
            raise ConfigError("drop_group found an empty group. Expected at least one training point in each.")
        return np.arange(len(found)), [np.unique(member) for member in members]
    if len(found) != fitted.objective.count:
        raise ConfigError(
            f"drop_group found {len(found)} labels for {fitted.objective.count} training points. Expected a list of lists of points, or one label a point."
        )
    names, where = np.unique(np.asarray(found), return_inverse=True)
    return names, [np.flatnonzero(where == place) for place in range(len(names))]


def _answer(ask: Ask, changes: list[Reweighting], names: np.ndarray, estimand: str) -> Effects:
    twice = _twice(ask)
    moves = torch.stack([_move(ask.fitted, change, ask.best_order, twice) for change in changes])
    found = ask.effects(ask.of_moves(moves), names, estimand)
    return replace(found, notes=(*found.notes, TWO_STEPS)) if twice else found


def _twice(ask: Ask) -> bool:
    """True where a second step is taken: order='auto', on a convex model with closed forms."""
    engine = ask.fitted.engine
    return ask.order == "auto" and ask.best_order == "newton" and isinstance(engine, LinearEngine)


TWO_STEPS = "Two Newton steps on what remains (order='newton' takes one)"


def _move(fitted: Fitted, change: Reweighting, order: str, twice: bool) -> Tensor:
    """δ = −(H + ΔH)⁻¹Δψ and, where asked, a second step from there; or −H⁻¹Δψ at first order."""
    move = _one_step(fitted, change, order)
    if not twice:
        return move
    weights = fitted.weights.clone()
    weights[change.places] += change.amounts
    share = float(fitted.shares(change.amounts.sum().reshape(1))[0])
    return _second_step(fitted, move, weights, (1 + share) * fitted.objective.penalty.diagonal.to(move))


def _second_step(fitted: Fitted, move: Tensor, weights: Tensor, penalty: Tensor) -> Tensor:
    """A second Newton step, from the parameters the first one reached; kept only if it lands closer.

    The gradient it removes is the retained objective's at θ̂ + δ, less what was pending at θ̂.
    """
    theta = fitted.objective.theta.to(move) + move
    left = _retained_gradient(fitted, theta, weights, penalty)
    matrix = fitted.engine.hessian(fitted.objective.examples, weights, theta)
    matrix.diagonal().add_(penalty + fitted.damping)
    try:
        step = -(left @ inverse(Dense(matrix, is_symmetric=True), shift_gauge(fitted.objective, matrix)))
    except IndefiniteCurvature:
        return move
    closer = _retained_gradient(fitted, theta + step, weights, penalty).norm() < left.norm()
    return move + step if closer else move


def _retained_gradient(fitted: Fitted, theta: Tensor, weights: Tensor, penalty: Tensor) -> Tensor:
    return fitted.engine.gradient(weights, theta) + penalty * theta - fitted.stationarity.gradient


def _one_step(fitted: Fitted, change: Reweighting, order: str) -> Tensor:
    share = float(fitted.shares(change.amounts.sum().reshape(1))[0])
    gradient = _total_gradient(fitted, change.examples, change.amounts) + share * fitted.penalty_gradient
    if order == "first":
        return -(gradient @ fitted.inverse.T)
    outputs = len(change.amounts) * max(1, int(np.prod(fitted.objective.trailing)))
    if isinstance(fitted.engine, LinearEngine) and 4 * outputs < fitted.objective.space.size:
        return _woodbury(fitted, change, share)
    curvature = _total_curvature(fitted, change)
    curvature.diagonal().add_(share * fitted.objective.penalty.diagonal.to(curvature))
    return _newton(fitted, curvature, gradient, change.name)


def _woodbury(fitted: Fitted, change: Reweighting, share: float) -> Tensor:
    """The same step for a small group of a linear model: one system of |S|·o unknowns."""
    parts = [(engine_jacobian, push, curvature) for engine_jacobian, push, curvature in _output_terms(fitted, change)]
    jacobian = DenseJacobian(torch.cat([j.dense() for j, _, _ in parts]).flatten(0, 1).unsqueeze(0))
    push = torch.cat([p for _, p, _ in parts]).reshape(1, -1)
    curvature = torch.block_diag(*(m for _, _, stack in parts for m in stack)).unsqueeze(0)
    one = Changes(jacobian, push, curvature, share)
    solver = fitted.inverse_with(share)
    correction = corrected(one, solver, fitted.penalty_gradient if share else None)
    if bool(correction.refused.any()):
        return _newton(
            fitted,
            _total_curvature(fitted, change),
            _total_gradient(fitted, change.examples, change.amounts),
            change.name,
        )
    return -((one.block(correction.push).dense() + share * fitted.penalty_gradient) @ solver.T)[0]


def _output_terms(fitted: Fitted, change: Reweighting) -> Iterator[tuple[Any, Tensor, Tensor]]:
    loss = fitted.objective.loss
    for where, batch in fitted.engine.batches(change.examples):
        outputs, targets = fitted.engine.outputs(batch)
        amount = change.amounts[where]
        yield (
            fitted.engine.jacobian(batch),
            loss.gradient(outputs, targets).double() * amount[:, None],
            loss.hessian(outputs, targets).double() * amount[:, None, None],
        )


def _total_gradient(fitted: Fitted, examples: Examples, amounts: Tensor) -> Tensor:
    total = amounts.new_zeros(fitted.objective.space.size)
    for where, batch in fitted.engine.batches(examples):
        total = total + fitted.engine.gradients(batch).sum(amounts[where])
    return total


def _total_curvature(fitted: Fitted, change: Reweighting) -> Tensor:
    if fitted.settings.curvature != "ggn":
        return fitted.engine.hessian(change.examples, change.amounts)
    total = torch.zeros_like(fitted.hessian.matrix)
    for jacobian, _, curvature in _output_terms(fitted, change):
        jacobian.add_gram(curvature, total)
    return total


def _newton(fitted: Fitted, curvature: Tensor, gradient: Tensor, what: str) -> Tensor:
    gauge = None if fitted.damping else shift_gauge(fitted.objective, fitted.hessian.matrix + curvature)
    return retained_step(fitted.hessian.matrix, curvature, gradient, gauge, what)
