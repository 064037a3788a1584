"""Read a question about a worst case, and search."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np

from upweight.errors import BudgetError, ConfigError, listing
from upweight.fitted import Fitted
from upweight.inference.scale import Scale, scale_of
from upweight.inference.worst_case.claims import Claim, IntervalEnd, Measured, Sign, estimate_of
from upweight.inference.worst_case.result import WorstCase, labelled
from upweight.inference.worst_case.search import Search, additive, greedy
from upweight.questions.question import MeasureLike, Question

CLAIMS = ("sign", "significance", "both")
ERRORS = {
    "classical": "classical",
    "ij": "the infinitesimal jackknife's",
    "hc0": "robust (HC0)",
    "hc1": "robust (HC1)",
    "hc2": "robust (HC2)",
    "hc3": "robust (HC3)",
    "cluster": "clustered",
}


@dataclass(frozen=True)
class WorstCaseQuestion:
    """What a worst case is asked of: see ``Study.worst_case``."""

    what: MeasureLike
    of: str | None
    query: Any
    to: float | None
    aggregate: str | None
    kind: str | None
    groups: Any
    level: float | int
    most: int | float
    progress: bool | None


def worst_case(fitted: Fitted, asked: WorstCaseQuestion) -> WorstCase:
    """Search both ways, and say what was found."""
    fitted.stationarity.warn()
    if not fitted.exact.fits:
        raise BudgetError(
            f"worst_case refits by Newton's method, and the Hessian of {fitted.objective.space.size:,} parameters does not fit the memory. Expected fewer; track some of them, or take drop_group() and your own retraining."
        )
    most = _most(asked.most, fitted.objective.count)
    claim, errors = _claim(fitted, asked)
    start = claim.value(fitted)
    if start == claim.limit or not np.isfinite(start):
        raise ConfigError(
            f"worst_case found {claim.number} of {claim.name} at {start:g}, on no side of {claim.limit:g}. Expected a claim that holds; pass to= another value."
        )
    search = Search(fitted, claim, most, start)
    return WorstCase(
        what=labelled(asked.what),
        of=claim.name,
        before=claim.estimate(fitted),
        additive=additive(search),
        greedy=greedy(search, asked.progress),
        count=int((fitted.weights > 0).sum()),
        most=most,
        limit=claim.limit,
        number=claim.number,
        falling=claim.words,
        errors=errors,
        notes=fitted.adapted.notes,
    )


def _claim(fitted: Fitted, asked: WorstCaseQuestion) -> tuple[Claim, str | None]:
    """The claim, and which standard errors it is made with."""
    if isinstance(asked.what, str) and asked.what in CLAIMS:
        return _of_parameter(fitted, asked)
    return _of_measure(fitted, asked), None


def _of_parameter(fitted: Fitted, asked: WorstCaseQuestion) -> tuple[Claim, str | None]:
    if asked.query is not None or asked.to is not None:
        raise ConfigError(
            f"worst_case({asked.what!r}) found query= or to=. Expected of=, a parameter's name; queries are for measures such as 'prediction'."
        )
    if not 0 < asked.level < 1:
        raise ConfigError(f"level={asked.level!r}. Expected a number between 0 and 1, such as 0.05.")
    coordinate, name = _coordinate(fitted, asked.of)
    if asked.what == "sign":
        scale = _scale_if_any(fitted, asked)
        return Sign(coordinate, name, scale, asked.level), None if scale is None else ERRORS[scale.kind]
    scale = scale_of(fitted, asked.kind, asked.groups)
    now = estimate_of(fitted, coordinate, scale, asked.level)
    significant = now.low > 0 or now.high < 0
    far = asked.what == "both"
    words = {
        "both": f"change its sign, significant at the {asked.level:.3g} level",
        "significance": f"{'take its significance away' if significant else 'make it significant'} at the {asked.level:.3g} level",
    }
    side = (1.0 if now > 0 else -1.0) * (1.0 if far else -1.0)
    return IntervalEnd(coordinate, name, scale, asked.level, side, words[str(asked.what)]), ERRORS[scale.kind]


def _scale_if_any(fitted: Fitted, asked: WorstCaseQuestion) -> Scale | None:
    """Standard errors to show beside a sign, where the model has any."""
    if asked.kind is None and asked.groups is None:
        try:
            return scale_of(fitted, None)
        except ConfigError:
            return None
    return scale_of(fitted, asked.kind, asked.groups)


def _of_measure(fitted: Fitted, asked: WorstCaseQuestion) -> Claim:
    if asked.of is not None or asked.query is None:
        raise ConfigError(
            f"worst_case({labelled(asked.what)!r}) found {'of=' if asked.of is not None else 'no query='}. Expected one of {', '.join(map(repr, CLAIMS))} with of=, or a measure with query=."
        )
    question = Question(fitted, asked.query, asked.what, "auto", asked.aggregate)
    measured = question.measured
    if measured is None or len(measured.ids) != 1:
        found = "the parameters" if measured is None else f"{len(measured.ids)} numbers"
        raise ConfigError(
            f"worst_case({labelled(asked.what)!r}) found {found}. Expected one number: one query, or aggregate='mean', 'sum' or 'set'."
        )
    limit = 0.0 if asked.to is None else float(asked.to)
    name = f"the {measured.name}{'' if measured.over_set else f' of query {measured.ids[0]}'}"
    return Measured(question, name, f"take it past {limit:g}", limit, measured.name)


def _coordinate(fitted: Fitted, of: str | None) -> tuple[int, str]:
    names = fitted.objective.space.coordinates()
    if of is None:
        raise ConfigError(f"worst_case found no of=. Expected the name of a parameter: {listing(names, 8)}.")
    if of not in names:
        near = difflib.get_close_matches(str(of), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"of={of!r} is no parameter.{hint} Expected one of {listing(names, 8)}.")
    return names.index(of), str(of)


def _most(most: int | float, count: int) -> int:
    number = isinstance(most, int | float) and not isinstance(most, bool) and most > 0
    whole = number and float(most).is_integer() and most >= 1
    if not number or not (whole or most < 1) or most > count - 1:
        raise ConfigError(
            f"most={most!r}. Expected how many points may go, from 1 to {count - 1}, or a share of them below 1."
        )
    return int(most) if whole else max(1, int(most * count))
