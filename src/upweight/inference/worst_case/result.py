"""What a search for a worst case found: the points, before and after, a table, a plot and a paragraph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from upweight.errors import MissingExtraError, listing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Estimate(float):
    """A number as a float, with its standard error, confidence interval and p-value where it has them."""

    standard_error: float | None
    low: float
    high: float
    p_value: float | None

    def __new__(
        cls,
        value: float,
        standard_error: float | None = None,
        low: float = float("nan"),
        high: float = float("nan"),
        p_value: float | None = None,
    ) -> Estimate:
        found = super().__new__(cls, value)
        found.standard_error, found.low, found.high, found.p_value = standard_error, low, high, p_value
        return found

    def __str__(self) -> str:
        if self.standard_error is None:
            return f"{float(self):.4g}"
        return f"{float(self):.4g} (standard error {self.standard_error:.3g}, interval {self.low:.3g} to {self.high:.3g}, p = {self.p_value:.2g})"

    __repr__ = __str__


@dataclass(frozen=True)
class Removal:
    """A set of points that one search proposes, and what refitting without them says.

    Attributes:
        method: 'additive' or 'greedy'.
        order: 'first' or 'newton', how well single deletions were predicted.
        ids: the points, in the order in which they were chosen.
        path: the claim's number after 0, 1, 2, … points: predicted if additive, refitted if greedy.
        after: what is claimed about, refitted without the points; None where nothing was proposed.
        falls: refitted, the claim does not hold any more.
        said: how the search ended.
    """

    method: str
    order: str
    ids: np.ndarray
    path: tuple[float, ...]
    after: Estimate | None
    falls: bool
    said: str


@dataclass(frozen=True, repr=False)
class WorstCase:
    """The smallest set of points found without which a claim does not hold, confirmed by a refit.

    Attributes:
        what: 'sign', 'significance', 'both', or the name of a measure.
        of: the parameter, or the queries.
        before: what is claimed about, on all points.
        additive, greedy: what each search proposes.
        count: n.
        most: points that were allowed to go.
        limit: what the claim's number must pass for the claim to fall.
        number: what that number is, in words.
        falling: what it would mean, in words.
        errors: which standard errors, None where there are none.
        notes: what else a reader must know.
    """

    what: str
    of: str
    before: Estimate
    additive: Removal
    greedy: Removal
    count: int
    most: int
    limit: float
    number: str
    falling: str
    errors: str | None
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> Removal | None:
        """The smaller of the two sets that a refit confirms; None if neither is confirmed."""
        confirmed = [one for one in (self.greedy, self.additive) if one.falls]
        return min(confirmed, key=lambda one: len(one.ids)) if confirmed else None

    @property
    def flips(self) -> bool:
        """A set was found."""
        return self.found is not None

    @property
    def ids(self) -> np.ndarray:
        """The points of the set, in the order in which they were chosen; none if no set was found."""
        return self.greedy.ids[:0] if self.found is None else self.found.ids

    @property
    def order(self) -> str:
        """'newton' if the set was found with exact one-step deletions, 'first' if with first-order effects."""
        return self.greedy.order if self.found is None else self.found.order

    @property
    def after(self) -> Estimate:
        """What is claimed about, refitted without the points; as before if no set was found."""
        after = None if self.found is None else self.found.after
        return self.before if after is None else after

    @property
    def verdict(self) -> str:
        """One paragraph: how many points the claim rests on, by which search, and what the refits say."""
        sentences = [f"On all {self.count:,} points {self.of} is {self.before}."]
        if self.found is None:
            sentences.append(
                f"No set of up to {self.most:,} points ({self.most / self.count:.1%}) was found whose absence would {self.falling}."
            )
        else:
            size = len(self.ids)
            sentences.append(
                f"Leaving out {size:,} point{'s' * (size > 1)} ({size / self.count:.2%}) would {self.falling}: refitted without {'them' if size > 1 else 'it'}, {self.of} is {self.after}."
            )
        sentences += [_sentence(self.additive), _sentence(self.greedy)]
        if self.greedy.falls and not self.additive.falls:
            sentences.append(
                "Added up, single effects miss it: points hide behind each other, so only the search that refits finds them."
            )
        if self.errors is not None:
            sentences.append(f"Standard errors are {self.errors}, and follow the weights.")
        return " ".join([*sentences, *(f"{note}." for note in self.notes)])

    def __repr__(self) -> str:
        shown = f"\nPoints, in the order they were chosen: {listing(self.ids.tolist(), 20)}." if self.flips else ""
        return f"{self.verdict}{shown}"

    def to_pandas(self) -> pd.DataFrame:
        """One row a search: points, their share of all, what was predicted, what the refit says, and whether the claim falls."""
        import pandas as pd

        rows = [
            {
                "method": one.method,
                "points": len(one.ids),
                "share": len(one.ids) / self.count,
                "predicted": one.path[-1] if one.method == "additive" else np.nan,
                "refitted": np.nan if one.after is None else float(one.after),
                "standard_error": _error(one.after),
                "p_value": np.nan if one.after is None or one.after.p_value is None else one.after.p_value,
                "falls": one.falls,
            }
            for one in (self.additive, self.greedy)
        ]
        return pd.DataFrame(rows).set_index("method")

    def plot(self, axes: Axes | None = None) -> Axes:
        """The claim's number against the points left out: predicted by adding up, and as refitted after each."""
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise MissingExtraError(
                "plot() needs matplotlib, which is not installed. Install it with: pip install 'upweight[plot]'"
            ) from error
        axes = plt.subplots(figsize=(5.2, 3.8))[1] if axes is None else axes
        for one, words, style in (
            (self.additive, "additive, predicted", {"linestyle": "--", "color": "#888888"}),
            (self.greedy, "greedy, refitted after each", {"marker": "o", "markersize": 3, "color": "#1f5fa8"}),
        ):
            axes.plot(range(len(one.path)), one.path, label=words, **style)  # pyright: ignore[reportArgumentType]
        axes.axhline(self.limit, color="#b03a2e", linewidth=1)
        axes.set(xlabel="points left out", ylabel=self.number)
        axes.set_title(f"{self.of}: {'falls' if self.flips else 'holds'}", fontsize=10)
        axes.legend(frameon=False, fontsize=8)
        return axes


def _error(after: Estimate | None) -> float:
    return float("nan") if after is None or after.standard_error is None else after.standard_error


def _sentence(one: Removal) -> str:
    name = {"additive": "Adding up single effects", "greedy": "Leaving out one after another"}[one.method]
    if not len(one.ids):
        return f"{name} proposes none: {one.said}."
    return f"{name} proposes {len(one.ids):,}: {one.said}."


def labelled(what: Any) -> str:
    """A measure's name, or the claim's."""
    return what if isinstance(what, str) else getattr(what, "__name__", "callable")
