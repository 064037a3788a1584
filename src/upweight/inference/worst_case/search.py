"""Two searches for the points a claim rests on, each confirmed by refitting without them.

additive    first-order effects, largest first, until their sum passes the limit [BGM20]
greedy      one point at a time, each time the one whose own deletion, exact to one step, helps most, then a refit
            [KZC21]: what hides behind others is found once they are gone
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from upweight._typing import Float, Tensor
from upweight.errors import NumericalError
from upweight.fitted import Fitted
from upweight.inference.remaining import without
from upweight.inference.worst_case.claims import Claim
from upweight.inference.worst_case.result import Removal

TRIED = 6
"""Points tried for real at a greedy step, at most, where one step is not exact: the best few by prediction."""


@dataclass(frozen=True)
class Search:
    """A claim about a fitted model, and how many points may go.

    Attributes:
        start: the claim's number on all points.
    """

    fitted: Fitted
    claim: Claim
    most: int
    start: float

    def passed(self, value: float) -> bool:
        """The claim does not hold at this number."""
        limit = self.claim.limit
        return value < limit if self.start > limit else value > limit

    def distance(self, value: float) -> float:
        """How far the claim is from falling; negative beyond the limit."""
        return (value - self.claim.limit) * (1.0 if self.start > self.claim.limit else -1.0)

    def gains(self, changes: Float[Tensor, "n"]) -> np.ndarray:
        """Changes as gains: positive towards the limit."""
        return -changes.double().cpu().numpy() * (1.0 if self.start > self.claim.limit else -1.0)

    def named(self, places: np.ndarray) -> np.ndarray:
        """The points' names."""
        return self.fitted.objective.examples.ids[places]


def additive(search: Search) -> Removal:
    """The smallest set whose summed first-order effects pass the limit, refitted."""
    gains = search.gains(search.claim.first_order(search.fitted))
    order = np.argsort(-gains, kind="stable")[: search.most]
    order = order[gains[order] > 0]
    reached = np.cumsum(gains[order])
    away = 1.0 if search.start > search.claim.limit else -1.0
    path = (search.start, *(search.start - away * reached).tolist())
    enough = np.flatnonzero(reached > search.distance(search.start))
    if not len(enough):
        return Removal(
            "additive",
            "first",
            search.named(order[:0]),
            path,
            None,
            False,
            f"even the {len(order)} largest add up to too little",
        )
    chosen = order[: int(enough[0]) + 1]
    path = path[: len(chosen) + 1]
    try:
        left = without(search.fitted, chosen)
        falls, after = search.passed(search.claim.value(left)), search.claim.estimate(left)
    except NumericalError:
        said = "what they leave does not determine the parameters"
        return Removal("additive", "first", search.named(chosen), path, None, False, said)
    said = "refitted without them, the claim falls" if falls else "refitted without them, the claim holds"
    return Removal("additive", "first", search.named(chosen), path, after, falls, said)


def greedy(search: Search, progress: bool | None) -> Removal:
    """One point at a time, refitted after each, until the claim falls or nothing helps."""
    current, chosen, path = search.fitted, np.zeros(0, dtype=int), [search.start]
    hidden = None if progress is None else not progress
    said = "the claim still holds without them"
    with tqdm(total=search.most, desc="leaving out", unit="point", leave=False, disable=hidden) as bar:
        while len(chosen) < search.most and not search.passed(path[-1]):
            step = _next(search, current, chosen)
            if step is None:
                said = "no further point would bring it nearer"
                break
            current, chosen, value = step
            path.append(value)
            bar.update()
    falls = search.passed(path[-1])
    said = "refitted without them, the claim falls" if falls else said
    after = search.claim.estimate(current) if len(chosen) else None
    order = "first" if search.fitted.structured else "newton"
    return Removal("greedy", order, search.named(chosen), tuple(path), after, falls, said)


def _next(search: Search, current: Fitted, chosen: np.ndarray) -> tuple[Fitted, np.ndarray, float] | None:
    """The refit without one more point, the points then left out, and the claim's number; None where none helps."""
    gains = search.gains(search.claim.one_step(current))
    gains[chosen] = -np.inf
    order = np.argsort(-gains, kind="stable")[: 1 if search.claim.exact else TRIED]
    now, best = search.distance(search.claim.value(current)), None
    for place in order[gains[order] > 0]:
        if best is not None and search.distance(best[2]) <= now - gains[place]:
            break  # what was tried is already better than what this one is predicted to be
        try:
            tried = without(search.fitted, np.append(chosen, place), current.objective.theta)
            value = search.claim.value(tried)
        except NumericalError:
            continue  # what is left does not determine the parameters, or their errors
        if best is None or search.distance(value) < search.distance(best[2]):
            best = tried, np.append(chosen, place), value
    return best
