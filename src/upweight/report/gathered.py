"""Everything a report shows about a study, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from upweight.errors import ConfigError
from upweight.evaluate.calibration import Calibration, check
from upweight.fitted import Fitted
from upweight.influence.effects import Effects
from upweight.objective import Examples
from upweight.objective.data import Chosen
from upweight.questions import points, whole
from upweight.questions.question import Question
from upweight.questions.trust import Trust, trust
from upweight.report.outcomes import Outcomes, outcomes
from upweight.review import can_refit
from upweight.show import Shown

QUERIES = 60
"""Queries that are shown one by one, those of the highest loss; the mean is over all."""

RELABELLED = 1000
"""Suspects whose change of label is predicted for the page."""


@dataclass(frozen=True)
class Wanted:
    """What a report is asked to show: see ``Study.report``."""

    query: Any = None
    display: Shown | str | None = None
    groups: Sequence[Any] | np.ndarray | None = None
    truth: Sequence[Any] | None = None
    refits: int = 30
    calibration: Calibration | None = None
    train: Callable[..., Any] | None = None
    title: str | None = None
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Stored:
    """Answers that were computed before, so that they are not computed again."""

    self_influence: np.ndarray | None = None
    each: Effects | None = None
    mean: np.ndarray | None = None


@dataclass(frozen=True)
class Gathered:
    """The answers a report shows, each computed when first read."""

    fitted: Fitted
    wanted: Wanted
    stored: Stored = Stored()

    @cached_property
    def points(self) -> Outcomes:
        """What the model says of its training points."""
        return outcomes(self.fitted, self.fitted.objective.examples)

    @cached_property
    def self_influence(self) -> np.ndarray:
        """(n,)."""
        known = self.stored.self_influence
        return points.self_influence(self.fitted) if known is None else known

    @cached_property
    def order(self) -> np.ndarray:
        """Training points from the highest self-influence to the lowest."""
        return np.argsort(-self.self_influence, kind="stable")

    @cached_property
    def examples(self) -> Examples | None:
        """The queries, None where there are none."""
        return None if self.wanted.query is None else self.fitted.adapted.codec.read(self.wanted.query, "query")

    @cached_property
    def queries(self) -> Outcomes | None:
        """What the model says of all queries."""
        return None if self.examples is None else outcomes(self.fitted, self.examples)

    @cached_property
    def shown(self) -> np.ndarray:
        """Positions of the queries that are shown one by one, the highest loss first."""
        assert self.queries is not None
        return np.argsort(-self.queries.loss, kind="stable")[:QUERIES]

    @cached_property
    def each(self) -> Effects | None:
        """Effects on the loss of every query shown, (m, n)."""
        if self.examples is None or self.stored.each is not None:
            return self.stored.each
        return points.drop(self.about(self.shown), None)

    def about(self, places: np.ndarray) -> Question:
        """The question about the loss of the queries at these positions."""
        assert self.examples is not None
        return Question(self.fitted, Chosen(self.examples, places))

    @property
    def about_all(self) -> Question:
        """The question about the mean loss of all queries."""
        return Question(self.fitted, self.examples, "loss", "auto", "mean")

    @cached_property
    def mean(self) -> np.ndarray | None:
        """Effects on the mean loss of all queries, (n,)."""
        if self.stored.mean is not None or self.each is None or self.examples is None:
            return self.stored.mean
        if len(self.examples) == len(self.shown):
            return self.each.values.mean(0)
        return points.drop(self.about_all, None).values[0]

    @cached_property
    def relabelled(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Positions of the first suspects, and the change of the mean loss if each took the suggested label."""
        found = self.points
        if self.examples is None or found.suggested is None or self.fitted.objective.loss.kind == "free":
            return None
        places = self.order[:RELABELLED]
        wanted = [found.levels[int(k)] if found.levels else float(k) for k in found.suggested[places]]
        labels = dict(zip(found.ids[places].tolist(), wanted, strict=True))
        return places, points.relabel(self.about_all, labels).values[0]

    @cached_property
    def groups(self) -> Effects | None:
        """Effects of leaving whole groups out on the mean loss."""
        if self.wanted.groups is None:
            return None
        if self.examples is None:
            raise ConfigError("report found groups= without query=. Expected queries whose loss the groups move.")
        return whole.drop_group(self.about_all, self.wanted.groups)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The refits that were handed in, or made now; None without queries or refits, or for a network that needs ``train``."""
        if self.wanted.calibration is not None or self.each is None or not self.wanted.refits:
            return self.wanted.calibration
        if self.wanted.train is None and not can_refit(self.fitted):
            return None
        query, train = self.about(self.shown).query, self.wanted.train
        return check(self, self.each, query, "loss", self.wanted.refits, train=train)

    @cached_property
    def trust(self) -> Trust:
        """What the study measured about itself."""
        return trust(self.fitted)

    @cached_property
    def known(self) -> np.ndarray | None:
        """Positions of the points known to be mislabelled."""
        truth = self.wanted.truth
        return None if truth is None or not len(truth) else self.fitted.positions(list(truth))
