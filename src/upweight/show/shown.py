"""What all ways to show points have in common: one look a training point, one a query, made when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from upweight.errors import ShapeError

Look = dict[str, Any]
"""A look as JSON: what the page draws for one point."""


@dataclass(frozen=True)
class Shown(ABC):
    """Looks of the training points and, where they are given, of the queries.

    Attributes:
        train: one thing to look at a training point, in the order of the study: a list, an array, a column or a frame.
        query: one a query, in the order of the query; None where queries are not shown.
    """

    train: Any
    query: Any = None

    kind = "none"

    @abstractmethod
    def look(self, thing: Any) -> Look:
        """One thing as the page draws it; what cannot be drawn says why, as {'broken': reason}."""

    @property
    def head(self) -> Look:
        """What all looks share, such as the names of a table's columns."""
        return {}

    def of_train(self, place: int) -> Look:
        """The look of the training point at this position."""
        return self.look(at(self.train, place))

    def of_query(self, place: int) -> Look | None:
        """The look of the query at this position, if there is one."""
        return None if self.query is None else self.look(at(self.query, place))

    def of_pair(self, query: int | None, place: int) -> Look | None:
        """What of a training point's look is another beside the query at this position, or beside all of them (None)."""
        return None

    def require(self, points: int, queries: int | None) -> None:
        """Refuse looks of another number than the points they show.

        Raises:
            ShapeError: not one look a training point, or not one a query.
        """
        for what, things, count in (("training points", self.train, points), ("queries", self.query, queries)):
            if things is not None and count is not None and len(things) != count:
                raise ShapeError(
                    f"display={type(self).__name__} found {len(things)} for {count} {what}. Expected one each, in the same order; pass all of them."
                )


def at(things: Any, place: int) -> Any:
    """One of them by position, also of a frame or a series with an index of its own."""
    return things.iloc[place] if hasattr(things, "iloc") else things[place]
