"""A question: what is asked of which query, at which order; and how its answer becomes Effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypedDict

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import ApproximationWarning, ConfigError, NonFiniteGradient, plain, warn
from upweight.fitted import Fitted
from upweight.fitted.solvers import ITERATIVE
from upweight.influence.effects import Effects
from upweight.questions.answer import Answer, at_first_moves, at_newton_steps, by_layers, first_order
from upweight.questions.dependence import require_dependence
from upweight.questions.measuring import Measurement, joined, measurement
from upweight.questions.memory import query_parts, require_room
from upweight.questions.split import Split, by_modules
from upweight.questions.terms import Tile
from upweight.router import dense_bytes, order_costs
from upweight.solve.direct import ILL_CONDITIONED

ORDERS = ("auto", "two_newton", "newton", "first")
ESTIMANDS = ("response", "newton")

SIZES = "Sizes are not calibrated, and blocks overstate what single points own: trust the order; tune() learns the scale from a few retrainings, check() with train= confirms it"
"""Said of first-order answers from structured curvature."""

MeasureLike = str | Callable[[Tensor, Tensor], Tensor]


class How(TypedDict, total=False):
    """What every question may be asked with: see ``Study``."""

    measure: MeasureLike
    order: str
    aggregate: str | None


@dataclass(frozen=True)
class Question:
    """One question's query, measure, order and estimand, against one fitted model."""

    fitted: Fitted
    query: Any
    measure: MeasureLike = "loss"
    order: str = "auto"
    aggregate: str | None = None
    estimand: str = "response"

    def __post_init__(self) -> None:
        for name, allowed in (("order", ORDERS), ("estimand", ESTIMANDS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown. Expected one of {', '.join(allowed)}.")
        if self.measure == "parameters" and self.query is not None:
            raise ConfigError(
                "measure='parameters' found a query. Expected none: the parameters are their own measurement; leave query out."
            )

    @cached_property
    def measured(self) -> Measurement | None:
        """The measurement, or None for the parameters themselves."""
        if self.measure == "parameters":
            return None
        found = measurement(self.fitted, self.query, self.measure, self.aggregate)
        require_dependence(self.fitted, found, self.best_order)
        return found

    @cached_property
    def best_order(self) -> str:
        """'newton' or 'first' for 'auto': the best that fits the memory budget and the solver asked for."""
        if self.order != "auto":
            return self.order
        fitted = self.fitted
        if fitted.structured:
            return "first"  # blocks overstate leverage: on trained networks the correction went wrong more than it put right
        return "newton" if fitted.exact.fits and fitted.settings.solver_name not in ITERATIVE else "first"

    @cached_property
    def pending(self) -> Float[Tensor, "p"] | None:
        """s where gᵢ − Hᵢs is asked for; from the exact Hessian only."""
        return self.fitted.pending if self.estimand == "newton" else None

    @cached_property
    def pull(self) -> Float[Tensor, "p"]:
        """∇r, or ∇r − ∇²r s: what a penalty share adds to a change."""
        gradient = self.fitted.penalty_gradient
        if self.pending is None:
            return gradient
        return gradient - self.fitted.objective.penalty.diagonal.to(gradient) * self.pending

    def answer(self, tiles: Iterable[Tile], count: int) -> Answer:
        """Take the road the order asks for."""
        if self.order == "two_newton":
            raise ConfigError(
                "order='two_newton' is for changes of many points at once (drop_group, reweight, change_penalty). Expected 'auto', 'newton' or 'first' here."
            )
        measured = self.measured
        if self.best_order == "newton":
            return at_newton_steps(self.fitted, tiles, count, measured, self.pull)
        if self.fitted.structured and measured is not None and measured.aggregate is None and not measured.over_set:
            return by_layers(self.fitted, tiles, count, measured, self.pull)
        if measured is not None and measured.over_set:
            return at_first_moves(self.fitted, tiles, count, measured, self.pull)
        return first_order(self.fitted, tiles, count, None if measured is None else measured.rows(), self.pull)

    def shared_answer(self, tiles: Callable[..., Iterable[Tile]], count: int) -> Answer:
        """The same for all queries, as many at a time as the memory allows, each rank answering for its part of the tiles."""
        require_room(self._rows, count, self.fitted.settings.budget)
        if len(self.parts) == 1:
            return self._shared(tiles, count)
        answers, measured = [], []
        for part in self.parts:
            one = replace(self, query=part)  # its layers go when it is answered
            answers.append(one._shared(tiles, count))
            assert one.measured is not None
            measured.append(replace(one.measured, jacobians=[]))
        self.__dict__["measured"] = joined(measured)  # what effects are labelled by
        values = torch.cat([answer.values for answer in answers])
        return replace(answers[0], values=values, refused=max(answer.refused for answer in answers))

    @cached_property
    def parts(self) -> list[Any]:
        """The queries, cut where they do not fit into the memory together."""
        return query_parts(self)

    @property
    def _rows(self) -> int:
        """How many numbers a change has in the answer."""
        if len(self.parts) > 1:
            return sum(map(len, self.parts))
        return self.fitted.objective.space.size if self.measured is None else len(self.measured.ids)

    def _shared(self, tiles: Callable[..., Iterable[Tile]], count: int) -> Answer:
        fold = self.fitted.objective.fold
        if fold.size == 1:
            return self.answer(tiles(), count)
        self._made_together(count)
        start, stop = fold.share(count)
        with fold.phase("scores"):
            mine = self.answer(tiles(own=True), count) if start < stop else None
        said = None if mine is None else (len(mine.values), mine.order, mine.verdict, mine.refused)
        heard = [one for one in fold.exchanged("scores", said) if one is not None]
        rows, order, verdict, _ = heard[0]
        values = torch.zeros(rows, count, dtype=torch.float64) if mine is None else mine.values.contiguous()
        fold.sum("scores", [values])
        return Answer(values, order, verdict, sum(refused for *_, refused in heard))

    def _made_together(self, count: int) -> None:
        """What all ranks make together, before each goes through its own tiles."""
        fitted, measured = self.fitted, self.measured
        self.pull  # noqa: B018 - made now
        plain = measured is not None and not measured.over_set and not fitted.structured
        if self.best_order == "first" and plain:
            fitted.row_inverse(len(measured.ids))  # pyright: ignore[reportOptionalMemberAccess]
        else:
            fitted.row_inverse(count)
            fitted.own_verdict  # noqa: B018

    def of_moves(self, moves: Float[Tensor, "k p"], order: str) -> Answer:
        """Measure moves of θ that are already written out."""
        verdict = self.fitted.verdict
        if self.measured is None:
            return Answer(moves.T, order, verdict)
        if order == "first" and not self.measured.over_set:
            return Answer(self.measured.rows() @ moves.T, order, verdict)
        return Answer(self.measured.at_moves(moves), order, verdict)

    def effects(
        self,
        answer: Answer,
        ids: np.ndarray | Sequence[Any],
        question: str,
        tiles: Callable[[], Iterable[Tile]] | None = None,
    ) -> Effects:
        """Label an answer, and say aloud what it could not do exactly; with its tiles it can be split later."""
        fitted, measured = self.fitted, self.measured
        fitted.stationarity.warn()
        names = np.asarray(fitted.objective.space.coordinates()) if measured is None else measured.ids
        self._require_finite(answer, names, ids)
        return Effects(
            values=answer.values.cpu().numpy(),
            query_ids=names,
            train_ids=np.asarray(ids),
            question=question,
            estimand=self.estimand,
            measure="parameters" if measured is None else measured.name,
            unit=self._unit(question),
            order=answer.order,
            protocol=fitted.protocol,
            verdict=str(answer.verdict),
            notes=(*fitted.adapted.notes, *self._said(answer)),
            split=None if tiles is None else self._split(answer, tiles),
        )

    def _split(self, answer: Answer, tiles: Callable[[], Iterable[Tile]]) -> Callable[[], Split] | None:
        """How the answer is taken again module by module; None where it is no sum over them."""
        over_set = self.measured is not None and self.measured.over_set
        if answer.order != "first" or over_set:
            return None
        return partial(by_modules, replace(self), tiles, answer.values.shape[1])

    def _require_finite(self, answer: Answer, rows: np.ndarray, columns: Any) -> None:
        """No NaN leaves in silence: name the first measurement and change it belongs to."""
        bad = ~torch.isfinite(answer.values)
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            raise NonFiniteGradient(
                f"the effect of {plain(list(columns)[column])!r} on {plain(rows[row])!r} is {float(answer.values[row, column])} ({int(bad.sum())} of {bad.numel()} are not finite). "
                "Expected finite inputs, targets and measures; look at this query, at what is changed, and at the measure."
            )
        answer.verdict.warn()
        condition = answer.verdict.condition or 0.0
        if condition > ILL_CONDITIONED:
            warn(
                f"the curvature has condition number {condition:.1e} once its scales are taken out: some combination of parameters is hardly determined, and a refit may choose another (scikit-learn truncates such directions). Expected less than {ILL_CONDITIONED:.0e}; add a penalty, drop a near-duplicate column, and confirm with check().",
                ApproximationWarning,
            )

    def _unit(self, question: str) -> str:
        unit = "parameter units" if self.measured is None else self.measured.unit
        per = {"upweight": "weight", "penalty_derivative": "λ"}.get(question)
        return unit if per is None else f"{unit} per unit of {per}"

    def _said(self, answer: Answer) -> list[str]:
        fitted, measured, said = self.fitted, self.measured, []
        if answer.order != "first" and not fitted.linear:
            said.append("Each point's own curvature is taken through the outputs (Gauss-Newton)")
        if self.order == "auto":
            said.append(self._instead(answer))
        if fitted.structured and answer.order == "first" and measured is not None:
            said.append(SIZES)
        if self.estimand == "newton":
            said.append("Of the Newton iterate (gᵢ − Hᵢs)")
        if not fitted.stationarity.reached:
            said.append(f"Not at a minimum: {fitted.stationarity}")
        if answer.refused:
            sentence = f"{answer.refused} of {answer.values.shape[1]} changes stay at first order: without them the curvature would not be positive definite, so what remains does not determine the parameters"
            warn(
                f"{sentence}. Expected leverages below 1; add a penalty or damping, or refit those points.",
                ApproximationWarning,
            )
            said.append(sentence)
        return said

    def _instead(self, answer: Answer) -> str:
        """Which order was taken, and what the other would have cost."""
        o = self.fitted.objective
        costs = order_costs(o.count, o.space.size, len(answer.values), self.fitted.linear)
        if self.fitted.structured:
            passes = o.outputs if answer.order == "first" else 1
            return f"order={'newton' if answer.order == 'first' else 'first'!r} takes {passes} backward pass{'es' * (passes > 1)} an example"
        if answer.order == "first" and self.fitted.settings.solver_name in ITERATIVE:
            return f"Taken to first order, as solver={self.fitted.settings.solver_name!r} solves for queries; order='newton' takes every point's own curvature as well"
        if answer.order == "first":
            return f"Taken to first order, since the correction needs {dense_bytes(o.space.size) / 2**30:.2g} GiB and about {costs['newton']:.0e} FLOPs"
        return f"order='first' would cost about {costs['first']:.0e} FLOPs, this took about {costs['newton']:.0e}"
