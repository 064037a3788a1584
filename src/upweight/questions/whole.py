"""Questions about the whole objective: groups left out, other weights, another penalty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.curvature import shift_gauge
from upweight.errors import ConfigError, IndefiniteCurvature, NonFiniteInput, ShapeError, UnitWarning, warn
from upweight.fitted import Fitted
from upweight.influence.changes import Changes, corrected
from upweight.influence.effects import Effects
from upweight.influence.newton import retained_step
from upweight.linop import Dense, Diagonal
from upweight.objective import L2, Examples, Penalty, Quadratic, read_penalty
from upweight.objective.data import Chosen
from upweight.questions.answer import Answer
from upweight.questions.question import Question
from upweight.questions.remaining import Remaining, change_of
from upweight.questions.reweighted import Reweighted
from upweight.questions.terms import terms
from upweight.router import route_group
from upweight.solve import inverse
from upweight.tiles import DenseJacobian

FAR_TOTAL = 3.0
"""A total weight this many times the study's is more likely another unit than another training set."""


@dataclass(frozen=True)
class Reweighting:
    """Amounts added to the weights of some training points; all at once they are one change."""

    examples: Examples
    amounts: Float[Tensor, "s"]
    places: np.ndarray
    name: str


def drop_group(question: Question, groups: Any) -> Effects:
    """Leave whole groups out."""
    names, members = read_groups(question.fitted, groups)
    objective = question.fitted.objective
    changes = [
        Reweighting(Chosen(objective.examples, m), -objective.weights[m], m, f"group {name} is left out")
        for name, m in zip(names, members, strict=True)
    ]
    return _effects(question, changes, names, "drop_group")


def reweight(question: Question, weights: Any) -> Effects:
    """Give the whole training set other weights."""
    objective = question.fitted.objective
    wanted = np.atleast_2d(np.asarray(weights, dtype=float))
    if wanted.shape[1] != objective.count:
        raise ShapeError(
            f"reweight found weights of shape {np.shape(weights)}. Expected (k, {objective.count}): a weight for every training point, in the unit of the study's weights."
        )
    if not np.isfinite(wanted).all():
        row, column = np.argwhere(~np.isfinite(wanted))[0]
        raise NonFiniteInput(
            f"reweight found {wanted[row, column]} for point {objective.examples.ids[column]} of weighting {row}. Expected finite weights; correct it."
        )
    if not len(wanted):
        raise ShapeError(f"reweight found no weights. Expected (k, {objective.count}) with at least one row.")
    totals = wanted.sum(1)
    if (totals > FAR_TOTAL * objective.total_weight).any():
        warn(
            f"reweight found weights that sum to {totals.max():.3g}, the study's sum to {objective.total_weight:.3g}. Expected the study's unit, {objective.total_weight / objective.count:.3g} a point: divide by the number of points, or ignore this if the whole training set is meant to weigh more.",
            UnitWarning,
        )
    everyone = np.arange(objective.count)
    amounts = torch.as_tensor(wanted, device=objective.weights.device) - objective.weights
    changes = [Reweighting(objective.examples, row, everyone, f"reweighting {k}") for k, row in enumerate(amounts)]
    return _effects(question, changes, np.arange(len(wanted)), "reweight")


def change_penalty(question: Question, penalties: Penalty | Sequence[Penalty]) -> Effects:
    """Refit with another penalty, or with each of several."""
    wanted = list(penalties) if isinstance(penalties, Sequence | np.ndarray) else [penalties]
    if not wanted:
        raise ConfigError("change_penalty found no penalty. Expected one, or a list of at least one: uw.L2(1e-2).")
    order, fitted = _group_order(question), question.fitted
    if fitted.objective.penalty.slope is not None:
        raise ConfigError(
            "change_penalty found an l1 penalty, under which other coefficients may become zero. Expected a quadratic one; ask penalty_derivative() for the change along the path."
        )
    if fitted.structured or fitted.iterates:
        remaining = Remaining(fitted)
        moves = torch.stack([_penalty_move_of_blocks(remaining, one, order) for one in wanted])
        answer = remaining.said(question.of_moves(moves, order))
    else:
        answer = question.of_moves(torch.stack([_penalty_move(question, one) for one in wanted]), order)
    return question.effects(answer, np.asarray([str(one) for one in wanted]), "change_penalty")


def _penalty_move(question: Question, wanted: Penalty) -> Tensor:
    fitted = question.fitted
    before = fitted.objective.penalty.diagonal.to(fitted.weights)
    after = _in_place_of(fitted, wanted)
    gradient = (after - before) * fitted.objective.theta.double()
    order = _group_order(question)
    if order == "first":
        return -(gradient @ fitted.exact.inverse.T)
    move = _retained(fitted, torch.diag(after - before), gradient, f"changing the penalty to {wanted}", after)
    changed = replace(fitted.objective.penalty, diagonal=after)
    return _second_step(fitted, move, fitted.weights, changed) if order == "two_newton" else move


def _penalty_move_of_blocks(remaining: Remaining, wanted: Penalty, order: str) -> Tensor:
    """The same without a dense p × p matrix: ΔH is diagonal."""
    fitted = remaining.fitted
    change = _in_place_of(fitted, wanted) - fitted.objective.penalty.diagonal.to(fitted.weights)
    gradient = change * fitted.objective.theta.double()
    if order == "first":
        return remaining.first(gradient)
    return remaining.move(gradient, Diagonal(change), f"changing the penalty to {wanted}")


def _in_place_of(fitted: Fitted, wanted: Penalty) -> Float[Tensor, "p"]:
    """The diagonal of the new penalty; a bare λ acts on the coordinates that are penalised now."""
    now, reach = fitted.objective.penalty.diagonal.to(fitted.weights), fitted.objective.penalty.reach
    if not isinstance(wanted, int | float):
        return read_penalty(wanted, fitted.objective.space).diagonal.to(now)
    new = read_penalty(L2(float(wanted)), fitted.objective.space).diagonal.to(now)
    if reach is not None:
        return new * reach.to(now)
    return new * (now > 0) if bool(now.any()) else new


def read_groups(fitted: Fitted, groups: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Names and members of groups given as {name: points}, a list of lists, or one label a training point.

    Raises:
        ConfigError: no group, an empty one, or labels of the wrong number.
    """
    if isinstance(groups, Mapping):
        names, members = read_groups(fitted, list(groups.values()))
        return np.asarray(list(groups)), members
    found = list(groups)
    if found and all(isinstance(member, list | tuple | set | range | np.ndarray) for member in found):
        empty = [place for place, member in enumerate(found) if not len(member)]
        if empty:
            raise ConfigError(
                f"drop_group found group {empty[0]} empty. Expected at least one training point in each; remove it."
            )
        return np.arange(len(found)), [np.unique(fitted.positions(list(member))) for member in found]
    if len(found) != fitted.objective.count:
        raise ConfigError(
            f"drop_group found {len(found)} labels for {fitted.objective.count} training points. Expected a list of lists of points, as in [[0, 1, 2]] for one group of three, or one label a point."
        )
    names, where = np.unique(np.asarray(found), return_inverse=True)
    return names, [np.flatnonzero(where == place) for place in range(len(names))]


def _effects(question: Question, changes: list[Reweighting], names: np.ndarray, asked: str) -> Effects:
    order, _ = _group_order(question), question.measured  # a query that cannot be asked is refused before any work
    if question.fitted.structured or question.fitted.iterates:
        return question.effects(_at_scale(question, changes, order), names, asked)
    moves, refused = zip(*(_affordable(question, change, order) for change in changes), strict=True)
    count = sum(refused)
    answer = question.of_moves(torch.stack(moves), "first" if count == len(changes) else order)
    return question.effects(replace(answer, refused=count), names, asked)


def _affordable(question: Question, change: Reweighting, order: str) -> tuple[Tensor, bool]:
    """The move; of a network whose order was left open to first order where what remains cannot be inverted, which is said."""
    try:
        return _move(question.fitted, change, order), False
    except IndefiniteCurvature:
        if question.fitted.linear or question.order != "auto":
            raise
    return _move(question.fitted, change, "first"), True


def _at_scale(question: Question, changes: list[Reweighting], order: str) -> Answer:
    """The same without a dense p × p matrix: solves with what remains, preconditioned by the blocks."""
    fitted, moves = question.fitted, []
    remaining = Remaining(fitted)
    for change in changes:
        share = fitted.share(float(change.amounts.sum()))
        gradient = fitted.engine.gradient(change.amounts, examples=change.examples) + share * fitted.penalty_gradient
        if order == "first":
            moves.append(remaining.first(gradient))
        else:
            added = change_of(fitted, change.examples, change.amounts, share)
            moves.append(remaining.move(gradient, added, change.name))
    return remaining.said(question.of_moves(torch.stack(moves), order))


def _group_order(question: Question) -> str:
    """For 'auto' two Newton steps where a model is linear: the gradient at the reached θ is then a closed form."""
    linear = question.fitted.linear
    if question.order == "two_newton" and not linear:
        raise ConfigError(
            "order='two_newton' found a model that is not linear in its parameters. Expected 'auto', 'newton' or 'first' for it."
        )
    return (
        "two_newton" if question.order == "auto" and question.best_order == "newton" and linear else question.best_order
    )


def _move(fitted: Fitted, change: Reweighting, order: str) -> Tensor:
    """δ = −(H + ΔH)⁻¹Δψ and, where asked, a second step from there; or −H⁻¹Δψ at first order."""
    move = _one_step(fitted, change, order)
    if order != "two_newton":
        return move
    weights = fitted.weights.clone()
    weights[change.places] += change.amounts
    share = fitted.share(float(change.amounts.sum()))
    return _second_step(fitted, move, weights, fitted.objective.penalty.scaled(1 + share))


def _second_step(fitted: Fitted, move: Tensor, weights: Tensor, penalty: Quadratic) -> Tensor:
    """A second Newton step, from the parameters the first one reached; kept only if it lands closer.

    The gradient it removes is the retained objective's at θ̂ + δ, less what was pending at θ̂.
    """
    remaining, pending = Reweighted(fitted.engine, weights, penalty), fitted.gradient
    theta = fitted.objective.theta.to(move) + move
    left = remaining.gradient(theta) - pending
    curvature = remaining.hessian(theta)
    gauge = None if fitted.exact.damping else shift_gauge(fitted.objective, curvature, penalty.diagonal)
    try:
        step = -(left @ inverse(curvature.damped(fitted.exact.damping), gauge).T)
    except IndefiniteCurvature:
        return move
    closer = (remaining.gradient(theta + step) - pending).norm() < left.norm()
    return move + step if closer else move


def _one_step(fitted: Fitted, change: Reweighting, order: str) -> Tensor:
    share = fitted.share(float(change.amounts.sum()))
    pull = share * fitted.penalty_gradient
    gradient = fitted.engine.gradient(change.amounts, examples=change.examples) + pull
    if order == "first":
        return -(gradient @ fitted.exact.inverse.T)
    outputs = len(change.amounts) * max(1, int(np.prod(fitted.objective.trailing)))
    linear = fitted.linear
    if linear and route_group(outputs, fitted.objective.space.size) == "woodbury":
        move = _woodbury(fitted, change, share)
        if move is not None:
            return move
    curvature = _curvature_of(fitted, change)
    curvature.diagonal().add_(share * fitted.objective.penalty.diagonal.to(curvature))
    return _retained(fitted, curvature, gradient, change.name)


def _woodbury(fitted: Fitted, change: Reweighting, share: float) -> Tensor | None:
    """The same step for a small group: one system of |S|·o unknowns; None where it has no solution."""
    parts = [changes for _, changes in terms(fitted, change.examples, change.amounts)]
    jacobian = DenseJacobian(torch.cat([part.jacobian.dense() for part in parts]).flatten(0, 1).unsqueeze(0))
    push = torch.cat([part.push for part in parts]).reshape(1, -1)
    curvature = torch.block_diag(*(matrix for part in parts for matrix in part.curvature)).unsqueeze(0)
    one, solver = Changes(jacobian, push, lambda: curvature, share), fitted.exact.inverse_with(share)
    correction = corrected(one, solver, fitted.penalty_gradient if share else None)
    if bool(correction.refused.any()):
        return None
    return -((one.block(correction.push).dense() + share * fitted.penalty_gradient) @ solver.T)[0]


def _curvature_of(fitted: Fitted, change: Reweighting) -> Float[Tensor, "p p"]:
    if fitted.kind != "ggn":
        return fitted.engine.hessian(change.examples, change.amounts)
    total = torch.zeros_like(fitted.exact.curvature.matrix)
    for _, changes in terms(fitted, change.examples, change.amounts):
        changes.jacobian.add_gram(changes.curvature, total)
    return total


def _retained(fitted: Fitted, curvature: Tensor, gradient: Tensor, what: str, penalty: Tensor | None = None) -> Tensor:
    total = Dense(fitted.exact.curvature.matrix + curvature, is_symmetric=not fitted.objective.saddle)
    gauge = None if fitted.exact.damping else shift_gauge(fitted.objective, total, penalty)
    return retained_step(total.damped(fitted.exact.damping), gradient, gauge, what)
