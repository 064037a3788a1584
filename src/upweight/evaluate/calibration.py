"""Predicted against really refitted: the only test that settles whether a score can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from upweight.displays import CalibrationDisplay
from upweight.errors import ConfigError
from upweight.evaluate.agreement import Agreement, agreement_of, pearson_of, slope_of
from upweight.evaluate.arguments import read_count
from upweight.evaluate.estimates import LEVEL
from upweight.evaluate.noise import NoiseFloor
from upweight.evaluate.refits import Refits
from upweight.evaluate.retraining import Retraining
from upweight.evaluate.states import Train
from upweight.influence.effects import Effects

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


SLOPE_LIMIT, PEARSON_LIMIT = 0.25, 0.9
"""A slope within a quarter of 1 and this correlation: below them a prediction is no longer a forecast of a refit."""

ORDER_LIMIT = 0.7
"""Rank correlation from which the order of points can be used where their sizes cannot."""

SEEN = 0.5
"""Share of the effects that must stand out of seed noise before their disagreement says anything about scores."""

WORDS = {
    "refit": ("real refits", "really refitting", "refitted"),
    "smoothed": ("refits of the smoothed objective", "refitting the smoothed objective", "refitted"),
    "pbrf": ("proximal responses", "the proximal response", "responding"),
}
"""What each truth is called: many of it, doing it, done by it."""


LIMITS = {
    "pbrf": " as arithmetic; it says nothing about λ or about retraining, which only train= can",
    "smoothed": " for the smoothed objective; what the model with its corners does may differ much, which only train= can say",
}
"""What a truth leaves open."""


@dataclass(frozen=True, repr=False)
class Calibration:
    """Predicted and refitted changes of every query under every point really left out.

    Attributes:
        predicted, refitted: (m, k), in the unit of the measurement.
        query_ids, train_ids: names of rows and columns.
        truth: 'refit'; 'smoothed' where the model has corners and its smoothed objective was refitted; 'pbrf' where the points left
            the network's proximal Bregman objective.
        noise: how many retrainings it would take to see each effect through chance; None where one seed was trained, or no seed
            makes a difference.
        asked: how many points were to be left out; where there are fewer, all of them are.
        standard_error: (m, k), of the refitted changes, from the spread of the seeds' own changes; None likewise.
    """

    predicted: np.ndarray
    refitted: np.ndarray
    query_ids: np.ndarray
    train_ids: np.ndarray
    measure: str
    unit: str
    truth: str = "refit"
    noise: NoiseFloor | None = None
    standard_error: np.ndarray | None = None
    asked: int = 0

    @property
    def slope(self) -> float:
        """Refitted change per unit of predicted change: 1 when the scale is right."""
        return slope_of(self.predicted.ravel(), self.refitted.ravel())

    @property
    def pearson(self) -> float:
        """Linear correlation over all queries and points."""
        return pearson_of(self.predicted.ravel(), self.refitted.ravel())

    @property
    def spearman(self) -> float:
        """Rank correlation over all queries and points."""
        return self.agreement.spearman.value

    @cached_property
    def agreement(self) -> Agreement:
        """Slope, Pearson and Spearman with 95 % intervals over queries and points."""
        return agreement_of(self.predicted, self.refitted)

    @property
    def relative_error(self) -> float:
        """‖predicted − refitted‖ / ‖refitted‖."""
        moved = float(np.linalg.norm(self.refitted))
        return float(np.linalg.norm(self.predicted - self.refitted)) / moved if moved else float("nan")

    @property
    def concerns(self) -> list[str]:
        """What the refits say against the predictions; empty when they agree."""
        if np.isnan(self.slope) or np.isnan(self.pearson):
            return [
                "nothing was predicted to move, or nothing moved, so the refits confirm nothing; take another measure"
            ]
        if abs(self.slope - 1) <= SLOPE_LIMIT and self.pearson >= PEARSON_LIMIT:
            return []
        return [
            f"{WORDS[self.truth][0]} do not follow the predictions: slope {self.slope:.2f} (1 is right), Pearson {self.pearson:.2f}; do not rely on sizes here"
        ]

    @property
    def after(self) -> str:
        """What was done to see the change, in words."""
        return WORDS[self.truth][1]

    @property
    def sentence(self) -> str:
        """Whether to trust the scores, in one sentence."""
        of = LIMITS.get(self.truth, "")
        if np.isnan(self.slope) or np.isnan(self.pearson):
            return f"Cannot say: {self.concerns[0]}."
        if not self.concerns:
            return f"Trust the sizes and the order of the scores{of}."
        if self.noise is not None and max(self.noise.share, self.shown) < SEEN:
            return f"Cannot say: {self.noise.words}; take more seeds, groups of points, or subset_truth() and lds()."
        if self.agreement.spearman.high < 0:
            return "Do not trust the scores: they run against the truth, as if their sign were turned."
        if self.agreement.spearman.low >= ORDER_LIMIT:
            return (
                f"Trust the order of the scores and not their sizes, which are off by a factor of {self.slope:.2g}{of}."
            )
        return f"Do not trust the scores of single points here: {self.concerns[0]}."

    @property
    def shown(self) -> float:
        """Share of the refitted changes that differ from zero by a t-test of the seeds' own changes; one where there is no chance."""
        if self.standard_error is None or self.noise is None:
            return 1.0
        edge = stats.t.ppf((1 + LEVEL) / 2, self.noise.runs - 1)
        return float((np.abs(self.refitted) > edge * self.standard_error).mean())

    def per_query(self) -> pd.DataFrame:
        """Slope, Pearson and Spearman of each query on its own."""
        import pandas as pd

        rows = []
        for query, predicted, refitted in zip(self.query_ids, self.predicted, self.refitted, strict=True):
            one = agreement_of(predicted[None], refitted[None], draws=2)
            rows.append((query, one.slope.value, one.pearson.value, one.spearman.value))
        return pd.DataFrame(rows, columns=["query", "slope", "pearson", "spearman"])

    def to_pandas(self) -> pd.DataFrame:
        """One row a query and point: predicted and refitted."""
        import pandas as pd

        m, k = self.predicted.shape
        return pd.DataFrame(
            {
                "query": np.repeat(self.query_ids, k),
                "train": np.tile(self.train_ids, m),
                "predicted": self.predicted.ravel(),
                "refitted": self.refitted.ravel(),
            }
        )

    def plot(self, axes: Axes | None = None) -> Axes:
        """Scatter of refitted against predicted changes, with the line on which they agree."""
        return CalibrationDisplay.from_calibration(self, ax=axes).ax_

    def __repr__(self) -> str:
        found = self.agreement
        intervals = [f"({one.low:.3g} to {one.high:.3g})" for one in (found.slope, found.pearson, found.spearman)]
        count = len(self.train_ids)
        fewer = f" (all there are: {self.asked:,} were asked for)" if self.asked > count else ""
        numbers = (
            f"Calibration on {count}{fewer} {WORDS[self.truth][0]} × {len(self.query_ids)} queries: slope of {WORDS[self.truth][2]} on predicted {self.slope:.4f} {intervals[0]}, "
            f"Pearson {self.pearson:.5f} {intervals[1]}, Spearman {self.spearman:.4f} {intervals[2]}, relative error {self.relative_error:.2g}."
        )
        return f"{numbers}\n{'Beware. ' if self.concerns else ''}{self.sentence}"


def check(
    study: Any,
    effects: Effects,
    query: Any,
    measure: Any,
    refits: int,
    seed: int = 0,
    seeds: int = 1,
    train: Train | Retraining | None = None,
    truth: str = "auto",
    progress: bool | None = None,
) -> Calibration:
    """Carry out a spread of the predicted drops, and compare."""
    if read_count(refits, "refits", None) < 2:
        raise ConfigError(f"check found refits={refits}. Expected at least 2, since a slope needs two points.")
    seed, seeds = read_count(seed, "seed", 0), read_count(seeds, "seeds")
    chosen = chosen_points(effects.values, min(refits, effects.values.shape[1]), seed)
    done = Refits(study, train, tuple(range(seed, seed + seeds)), truth, progress=progress)
    real = done.drop(query, which=effects.train_ids[chosen].tolist(), measure=measure)
    return Calibration(
        effects.values[:, chosen],
        real.effects.values,
        effects.query_ids,
        effects.train_ids[chosen],
        effects.measure,
        effects.unit,
        "smoothed" if done.kind == "refit" and train is None and study.fitted.adapted.smoothed else done.kind,
        real.noise,
        None if real.noise is None else real.standard_error,
        refits,
    )


def chosen_points(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A spread over predicted sizes (total absolute effect): half at even steps of the logarithm of the rank, from the
    largest down, half at even steps of the rank itself from a random start."""
    order = np.argsort(-np.abs(values).sum(0), kind="stable")
    n, top = len(order), count - count // 2
    ranks = list(dict.fromkeys(np.rint(np.geomspace(1, n, top)).astype(int) - 1))
    rest = np.setdiff1d(np.arange(n), ranks)
    missing = count - len(ranks)
    steps = (np.random.default_rng(seed).random() + np.arange(missing)) * (len(rest) / max(missing, 1))
    return order[np.concatenate([np.asarray(ranks, dtype=int), rest[steps.astype(int)]])]
