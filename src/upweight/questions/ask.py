"""What is asked of which query, at which order; and how an answer becomes Effects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from upweight._typing import Float, Tensor
from upweight.errors import ApproximationWarning, ConfigError
from upweight.fitted import Fitted
from upweight.gradients import LinearEngine
from upweight.influence.effects import Effects
from upweight.questions.answer import Answer, Tile, at_first_moves, at_newton_steps, first_order
from upweight.questions.measuring import Measurement, measurement

ORDERS = ("auto", "newton", "first")
ESTIMANDS = ("response", "newton")


@dataclass(frozen=True)
class Ask:
    """One question's query, measure, order and estimand, against one fitted model."""

    fitted: Fitted
    query: Any
    measure: str | Callable[..., Tensor]
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
        return measurement(self.fitted, self.query, self.measure, self.aggregate)

    @cached_property
    def best_order(self) -> str:
        """'newton' or 'first': for 'auto' the best that fits the memory budget and the solver asked for."""
        if self.order != "auto":
            return self.order
        return "newton" if self.fitted.fits and self.fitted.settings.solver != "block_cg" else "first"

    @cached_property
    def pending(self) -> Float[Tensor, "p"] | None:
        """s where gᵢ − Hᵢs is asked for."""
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
        measured = self.measured
        if self.best_order == "newton":
            return at_newton_steps(self.fitted, tiles, count, measured, self.pull)
        if measured is not None and measured.over_set:
            return at_first_moves(self.fitted, tiles, count, measured, self.pull)
        return first_order(self.fitted, tiles, count, None if measured is None else measured.rows(), self.pull)

    def of_moves(self, moves: Float[Tensor, "k p"]) -> Answer:
        """Measure moves of θ that are already written out."""
        verdict = str(self.fitted.inverse.verdict)
        if self.measured is None:
            return Answer(moves.T, solved_by=verdict)
        if self.best_order == "first" and not self.measured.over_set:
            return Answer(self.measured.rows() @ moves.T, solved_by=verdict)
        return Answer(self.measured.at_moves(moves), solved_by=verdict)

    def effects(self, answer: Answer, ids: np.ndarray | Sequence[Any], estimand: str) -> Effects:
        """Label an answer, and say aloud what it could not do exactly."""
        fitted, measured = self.fitted, self.measured
        fitted.stationarity.warn()
        names = np.asarray(fitted.objective.space.coordinates()) if measured is None else measured.ids
        return Effects(
            values=answer.values.cpu().numpy(),
            query_ids=names,
            train_ids=np.asarray(ids),
            estimand=estimand,
            measure="parameters" if measured is None else measured.name,
            unit=self._unit(estimand),
            order=self.best_order,
            protocol=fitted.protocol,
            verdict=answer.solved_by,
            notes=(*fitted.adapted.notes, *self._said(answer)),
        )

    def _unit(self, estimand: str) -> str:
        unit = "parameter units" if self.measured is None else self.measured.unit
        return f"{unit} per unit of weight" if estimand == "upweight" else unit

    def _said(self, answer: Answer) -> list[str]:
        said = []
        fitted = self.fitted
        if self.best_order == "newton" and not isinstance(fitted.engine, LinearEngine):
            said.append("Each point's own curvature is taken through the outputs (Gauss-Newton)")
        if self.order == "auto" and self.best_order == "first":
            said.append(
                f"First order, since the leverage correction needs a dense inverse of {fitted.dense_bytes / 2**30:.1f} GiB"
            )
        if self.estimand == "newton":
            said.append("Of the Newton iterate (gᵢ − Hᵢs)")
        if not fitted.stationarity.reached:
            said.append(f"Not at a minimum: {fitted.stationarity}")
        if answer.refused:
            share = f"{answer.refused} of {answer.values.shape[1]} changes stay at first order: their leverage reaches 1, so what remains does not determine the parameters"
            warnings.warn(
                f"{share}. Expected leverages below 1; add a penalty or damping, or refit those points.",
                ApproximationWarning,
                stacklevel=4,
            )
            said.append(share)
        return said
