"""What a question may take of the memory: queries a few at a time, and answers that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from upweight.adapters.adapted import PlainCodec
from upweight.errors import BudgetError
from upweight.objective.data import Chosen
from upweight.planning.counts import DOUBLE, query_chunk
from upweight.planning.shapes import shape_of
from upweight.router import Room

if TYPE_CHECKING:
    from upweight.questions.question import Question

SURELY = 16
"""Copies of a query's gradient within a quarter of the memory: then no shapes need be counted."""


def query_parts(question: Question) -> list[Any]:
    """The query as given where it fits, else cut into parts: for structured curvature and measurements of each query.

    What a query holds is counted from the layers' shapes; other kinds of curvature hold rows of θ, which solvers bound.
    """
    fitted, query = question.fitted, question.query
    each = question.aggregate is None and question.measure not in ("parameters", "accuracy", "auc")
    if not (each and fitted.structured and query is not None and type(fitted.adapted.codec) is PlainCodec):
        return [query]
    objective = fitted.objective
    examples = fitted.adapted.codec.read(query, "query")
    if SURELY * len(examples) * objective.space.size * objective.theta.element_size() <= objective.room.queries:
        return [query]
    size = query_chunk(shape_of(fitted.engine), fitted.task(len(examples)))
    if size >= len(examples):
        return [query]
    everyone = np.arange(len(examples))
    return [Chosen(examples, everyone[start : start + size]) for start in range(0, len(examples), size)]


def require_room(answers: int, count: int, memory: int) -> None:
    """Refuse an answer that does not itself fit.

    Raises:
        BudgetError: saying what it needs, and what holds less.
    """
    needed, limit = DOUBLE * answers * count, Room(memory).whole
    if needed > limit:
        raise BudgetError(
            f"effects of {count:,} training points on {answers:,} measurements take {needed:,} bytes. Expected at most the memory of {limit:,}; ask fewer queries at a time, aggregate='mean', or uw.Index.build(...).query(query, k=20), which holds the ends only."
        )
