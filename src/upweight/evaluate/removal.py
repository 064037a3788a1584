"""Brittleness: the fewest points, those that hold it up first, without which a prediction flips; random points as a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from upweight._typing import Float, Int
from upweight.displays.axes import axes_or_new
from upweight.errors import ConfigError, NonFiniteInput, ShapeError
from upweight.evaluate.altered import Altered, as_trained, without_points
from upweight.evaluate.arguments import fitted_of, read_count, read_numbers
from upweight.evaluate.refit import refit_altered, require_refits
from upweight.evaluate.retraining import Retraining, as_retraining
from upweight.evaluate.states import Train, outputs_at, outputs_of, require_unchanged
from upweight.questions.question import Question

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

RANDOM = "random"
"""The control's name."""

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of the training set that are tried, where no sizes are given."""


@dataclass(frozen=True, repr=False)
class Brittleness:
    """The smallest tried number of points without which each prediction flips.

    Attributes:
        smallest: by method, (m,): the size; infinite where not even the largest flips it.
        sizes: the sizes tried, rising.
        query_ids: names of the queries.
        retrainings: how many were taken.
    """

    smallest: dict[str, Float[np.ndarray, "m"]]
    sizes: tuple[int, ...]
    query_ids: np.ndarray
    retrainings: int

    def flipped(self, method: str) -> Float[np.ndarray, "x"]:
        """Share of the predictions that flip at every size."""
        return np.asarray([(self.smallest[method] <= size).mean() for size in self.sizes])

    def table(self) -> pd.DataFrame:
        """Share flipped: a row a size, a column a method."""
        import pandas as pd

        return pd.DataFrame(
            {name: self.flipped(name) for name in self.smallest}, index=pd.Index(self.sizes, name="removed")
        )

    def plot(self, axes: Axes | None = None) -> Axes:
        """Share flipped against the number of points removed."""
        axes = axes_or_new(axes, (4.6, 4.2))
        for name in self.smallest:
            axes.plot(self.sizes, self.flipped(name), marker="o", markersize=3, label=name)
        axes.set(xlabel="points removed", ylabel="share of predictions flipped", xscale="log", ylim=(-0.02, 1.02))
        axes.legend(frameon=False)
        return axes

    def __repr__(self) -> str:
        parts = [
            f"{name} flips {(np.isfinite(own)).mean():.0%} (median {np.median(own):,.0f} points)"
            for name, own in self.smallest.items()
        ]
        return f"Brittleness of {len(self.query_ids)} predictions, up to {self.sizes[-1]:,} points removed: {'; '.join(parts)}."


def brittleness(
    study: Any,
    query: Any,
    scores: Any,
    *,
    train: Train | Retraining | None = None,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    control: bool = True,
    progress: bool | None = None,
) -> Brittleness:
    """The smallest top-k whose removal flips each prediction: remove the points that scores say hold it up, and retrain.

    Those are the most helpful ones of a query that is predicted rightly, the most harmful ones of one that is not.
    The sizes are searched by bisection, as if what flips at one size flipped at every larger one; the size that is
    returned did flip the prediction, and the tried size before it did not.

    Args:
        study: a classifier's ``uw.Study``.
        scores: (m, n) drop effects of the queries' loss, positive for helpful points, or {name: scores} of several methods.
        train: (weights, seed) → state dict, a ``Training`` or a ``Retraining``; Newton from θ̂ otherwise.
        sizes: numbers of points to try; from a thousandth to a fifth of the training set by default.
        seed: of every retraining, and of the random order of the control.
        control: also remove points in random order, a different one for each query.

    Returns:
        Brittleness with .smallest by method, .table() and .plot().

    Raises:
        ConfigError: a model that predicts no class, or sizes that leave nothing. ShapeError, NonFiniteInput: scores that do not fit.

    Error and cost:
        One retraining on everything, and ⌈log₂(sizes + 1)⌉ a query and method. A prediction near its boundary also flips by the chance of
        retraining; that is what the control is for.
    """
    fitted = fitted_of(study, "brittleness")
    question = Question(fitted, query, "loss", "first")
    kind, outputs = fitted.objective.loss.kind, fitted.objective.outputs
    if question.measured is None or not (kind == "class" or (kind == "binary" and outputs == 1)):
        raise ConfigError(
            f"brittleness found the loss {fitted.objective.loss.name!r}, which predicts no class. Expected a classifier, whose predictions can flip."
        )
    queries = question.measured.query_ids
    named, tried = _read(scores, len(queries), fitted.objective.count), _sizes(sizes, fitted.objective.count)
    search = _Search(question, None if train is None else as_retraining(train, progress), seed)
    before = search.classes([Altered(fitted.weights)])[0]
    orders = _orders(named, before == _labels(question.measured.targets), seed, control)
    found = search.smallest(np.concatenate(list(orders.values())), before, tried)
    parts = np.split(found, len(orders))
    return Brittleness(dict(zip(orders, parts, strict=True)), tried, queries, search.taken)


class _Search:
    """Bisection over sizes, all queries and methods of a round retrained together."""

    def __init__(self, question: Question, retraining: Retraining | None, seed: int) -> None:
        self.question, self.fitted = question, question.fitted
        self.retraining, self.seed, self.taken = retraining, seed, 0
        if retraining is None:
            require_refits(self.fitted, "brittleness")

    def smallest(
        self, orders: Int[np.ndarray, "x n"], before: Int[np.ndarray, "m"], sizes: tuple[int, ...]
    ) -> Float[np.ndarray, "x"]:
        """The smallest size that flips, one a row of orders; rows go through the queries again and again."""
        own = np.arange(len(orders)) % len(before)
        low, high = np.full(len(orders), -1), np.full(len(orders), len(sizes))  # flips at high, not at low
        while (open_ := np.flatnonzero(high - low > 1)).size:
            middle = (low[open_] + high[open_]) // 2
            altered = [
                without_points(self.fitted, orders[row, : sizes[place]])
                for row, place in zip(open_, middle, strict=True)
            ]
            after = self.classes(altered)[np.arange(len(open_)), own[open_]]
            flips = after != before[own[open_]]
            high[open_[flips]], low[open_[~flips]] = middle[flips], middle[~flips]
        return np.asarray([*sizes, np.inf])[high]

    def classes(self, altered: list[Altered]) -> Int[np.ndarray, "k m"]:
        """Predicted classes of all queries after each retraining."""
        self.taken += len(altered)
        if self.retraining is None:
            outputs = {
                k: outputs_at(self.question, refit_altered(self.fitted, one).theta) for k, one in enumerate(altered)
            }
        else:
            outputs = {}
            for place, state in self.retraining.states(as_trained(self.fitted, altered), self.seed):
                require_unchanged(self.fitted)
                outputs[place] = outputs_of(self.question, state)
        found = [self.fitted.objective.loss.predicted(outputs[k]) for k in range(len(altered))]
        return torch.stack(found).cpu().numpy()


def _read(scores: Any, queries: int, count: int) -> dict[str, Float[np.ndarray, "m n"]]:
    """Scores by method, as finite arrays that fit."""
    named = dict(scores) if isinstance(scores, Mapping) else {"scores": scores}
    found = {str(name): read_numbers(own, f"scores {name!r}") for name, own in named.items()}
    for name, values in found.items():
        if values.shape != (queries, count):
            raise ShapeError(
                f"brittleness found scores {name!r} of shape {values.shape}. Expected ({queries}, {count}): a row a query, a column a training point."
            )
        if not np.isfinite(values).all():
            raise NonFiniteInput(f"brittleness found scores {name!r} that are not finite. Expected finite numbers.")
    return found


def _labels(targets: torch.Tensor) -> Int[np.ndarray, "m"]:
    return targets.reshape(len(targets), -1)[:, 0].round().long().cpu().numpy()


def _orders(
    scores: dict[str, Float[np.ndarray, "m n"]], right: np.ndarray, seed: int, control: bool
) -> dict[str, Int[np.ndarray, "m n"]]:
    """By method, the points of each query, those that hold its prediction up first."""
    held = np.where(right, 1.0, -1.0)[:, None]
    found = {name: np.argsort(-held * values, axis=1, kind="stable") for name, values in scores.items()}
    if control:
        generator = np.random.default_rng(seed)
        count = next(iter(scores.values())).shape[1]
        found[RANDOM] = np.stack([generator.permutation(count) for _ in range(len(right))])
    return found


def _sizes(sizes: Sequence[int] | None, count: int) -> tuple[int, ...]:
    wanted = (
        [round(share * count) for share in SIZES]
        if sizes is None
        else [read_count(size, "size", None) for size in sizes]
    )
    found = sorted({size for size in wanted if sizes is not None or 0 < size < count})
    if not found or found[0] < 1 or found[-1] >= count:
        raise ConfigError(
            f"brittleness found sizes={list(sizes or [])} of {count} training points. Expected numbers from 1 to {count - 1}."
        )
    return tuple(found)
