"""Predicted against really refitted: the only test that settles whether a score can be believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from tqdm import tqdm

from upweight._typing import Float, Tensor
from upweight.displays import CalibrationDisplay
from upweight.errors import ConfigError
from upweight.evaluate.refit import refit
from upweight.fitted import Fitted
from upweight.influence.effects import Effects
from upweight.questions.question import Question

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


SLOPE_LIMIT, PEARSON_LIMIT = 0.25, 0.9
"""A slope within a quarter of 1 and this correlation: below them a prediction is no longer a forecast of a refit."""


@dataclass(frozen=True, repr=False)
class Calibration:
    """Predicted and refitted changes of every query under every point really left out.

    Attributes:
        predicted, refitted: (m, k), in the unit of the measurement.
        query_ids, train_ids: names of rows and columns.
    """

    predicted: np.ndarray
    refitted: np.ndarray
    query_ids: np.ndarray
    train_ids: np.ndarray
    measure: str
    unit: str

    @property
    def slope(self) -> float:
        """Refitted change per unit of predicted change: 1 when the scale is right."""
        if not np.ptp(self.predicted):
            return float("nan")  # nothing is predicted to move, so there is no slope to speak of
        return float(stats.linregress(self.predicted.ravel(), self.refitted.ravel()).slope)  # pyright: ignore

    @property
    def pearson(self) -> float:
        """Linear correlation over all queries and points."""
        flat = not np.ptp(self.predicted) or not np.ptp(self.refitted)
        return float("nan") if flat else float(np.corrcoef(self.predicted.ravel(), self.refitted.ravel())[0, 1])

    @property
    def spearman(self) -> float:
        """Rank correlation over all queries and points."""
        flat = not np.ptp(self.predicted) or not np.ptp(self.refitted)
        return float("nan") if flat else float(stats.spearmanr(self.predicted.ravel(), self.refitted.ravel())[0])  # pyright: ignore

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
            f"real refits do not follow the predictions: slope {self.slope:.2f} (1 is right), Pearson {self.pearson:.2f}; do not rely on sizes here"
        ]

    def per_query(self) -> pd.DataFrame:
        """Slope, Pearson and Spearman of each query on its own."""
        import pandas as pd

        rows = []
        for query, predicted, refitted in zip(self.query_ids, self.predicted, self.refitted, strict=True):
            one = Calibration(
                predicted[None], refitted[None], np.asarray([query]), self.train_ids, self.measure, self.unit
            )
            rows.append((query, one.slope, one.pearson, one.spearman))
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
        return (
            f"Calibration on {len(self.train_ids)} real refits × {len(self.query_ids)} queries: slope of refitted on predicted {self.slope:.4f}, "
            f"Pearson {self.pearson:.5f}, Spearman {self.spearman:.4f}, relative error {self.relative_error:.2g}."
            + "".join(f" Beware: {concern}." for concern in self.concerns)
        )


def check(
    fitted: Fitted,
    effects: Effects,
    question: Question,
    refits: int = 30,
    seed: int = 0,
    train: Callable[[np.ndarray, int], Any] | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Leave out half of the points at random and half the most influential, each for real."""
    if refits < 2:
        raise ConfigError(f"check found refits={refits}. Expected at least 2, since a slope needs two points.")
    chosen = chosen_points(effects.values, min(refits, fitted.objective.count), seed)
    refitted = leave_out(fitted, question, chosen, seed, train, progress)
    return Calibration(
        effects.values[:, chosen], refitted, effects.query_ids, effects.train_ids[chosen], effects.measure, effects.unit
    )


def chosen_points(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The most influential points (by total absolute effect) and as many others at random."""
    strongest = np.argsort(-np.abs(values).sum(0), kind="stable")[: count // 2]
    others = np.setdiff1d(np.arange(values.shape[1]), strongest)
    return np.concatenate(
        [strongest, np.random.default_rng(seed).choice(others, count - len(strongest), replace=False)]
    )


def leave_out(
    fitted: Fitted,
    question: Question,
    places: np.ndarray,
    seed: int = 0,
    train: Callable[[np.ndarray, int], Any] | None = None,
    progress: bool | None = None,
) -> np.ndarray:
    """The change of every measurement when each of these points is really left out, (m, k)."""
    again = _trained(fitted, seed, train)
    base = again(fitted.weights)
    before = measured_at(question, base)
    columns = []
    for place in watched(places, progress):
        weights = fitted.weights.clone()
        weights[place] = 0.0
        columns.append(measured_at(question, again(weights)) - before)
    return torch.stack(columns, 1).cpu().numpy()


def measured_at(question: Question, theta: Float[Tensor, "p"]) -> Float[Tensor, "r"]:
    """The measurement of the asked queries with the parameters at θ."""
    measured, engine = question.measured, question.fitted.engine
    if measured is None:
        return theta
    examples = question.fitted.adapted.codec.read(question.query, "query")
    outputs = torch.cat([engine.outputs(batch, theta)[0] for _, batch in engine.batches(examples)]).double()
    return measured.at_outputs(outputs)


def _trained(fitted: Fitted, seed: int, train: Callable[[np.ndarray, int], Any] | None) -> Callable[[Tensor], Tensor]:
    if train is None:
        return lambda weights: refit(fitted, weights)

    def again(weights: Tensor) -> Tensor:
        state = train(weights.cpu().numpy(), seed)
        if not isinstance(state, Mapping):
            raise ConfigError(
                f"train= returned {type(state).__name__}. Expected a state dict; return model.state_dict()."
            )
        missing = [name for name in fitted.objective.space.names if name not in state]
        if missing:
            raise ConfigError(
                f"train= returned a state dict without {missing[0]!r}. Expected every tracked parameter; return model.state_dict()."
            )
        return fitted.objective.space.flatten(
            {name: torch.as_tensor(state[name]).detach().double() for name in fitted.objective.space.names}
        )

    return again


def watched(items: Iterable[Any], progress: bool | None) -> Iterable[Any]:
    """A progress bar: always, never, or (None) where somebody is looking."""
    hidden = None if progress is None else not progress
    return tqdm(items, desc="refitting", unit="refit", leave=False, disable=hidden)
