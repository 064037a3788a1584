"""Settings held against retrainings: rank and slope of each, the mixtures fitted, and a winner judged on what it has not seen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy import stats
from scipy.optimize import nnls

from upweight.solve import Filter, Mixture, Ridge

HALVES = 2
"""Parts into which retrainings and queries are cut, so that what judges has not chosen."""


@dataclass(frozen=True)
class Setting:
    """A Fisher estimator and a filter; ``damping`` is λ, or 1/rate, in mean eigenvalues."""

    fisher: str
    filter: Filter
    damping: float


@dataclass(frozen=True)
class Family:
    """Ridges of one Fisher and one unit, by their places among the settings, from which a mixture may be made."""

    fisher: str
    relative: bool
    places: tuple[int, ...]


@dataclass(frozen=True)
class Contest:
    """Predictions of every setting, and what really happened.

    Attributes:
        predicted, truth: (f, r, m) and (r, m), changes of m measurements under r retrainings.
    """

    settings: tuple[Setting, ...]
    predicted: np.ndarray
    truth: np.ndarray
    families: tuple[Family, ...] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[tuple[str, bool], list[int]] = {}
        for place, setting in enumerate(self.settings):
            if isinstance(setting.filter, Ridge) and setting.filter.damping > 0:
                found.setdefault((setting.fisher, setting.filter.relative), []).append(place)
        kinds = tuple(Family(*key, tuple(places)) for key, places in found.items() if len(places) > 1)
        object.__setattr__(self, "families", kinds)

    def chosen(self, masks: np.ndarray, queries: np.ndarray) -> int:
        """The setting that follows these best: Spearman plus Pearson, each over retrainings and averaged over queries.

        Few retrainings make ranks coarse, and large changes outweigh the rest in the other.
        """
        predicted, truth = self.crossed(masks, queries), self.truth[np.ix_(masks, queries)]
        scores = rank_scores(predicted, truth) + linear_scores(predicted, truth)
        return int(np.argmax(np.where(self.alive(self.fitted(masks, queries)), scores, -np.inf)))

    def alive(self, weights: list[np.ndarray]) -> np.ndarray:
        """False for a mixture that was given no weight at all, which is no filter, (f + k,)."""
        return np.asarray([True] * len(self.settings) + [bool(beta.any()) for beta in weights])

    def crossed(self, masks: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Predictions of all settings, mixtures last, each retraining left out of the fit that predicts it, (f + k, r, m).

        Each fit is scaled to one size: its scale knows, by its absence, how far the one left out moved.
        """
        return np.concatenate([self._left_out(k, masks, queries) for k in range(len(masks))], 1)

    def _left_out(self, place: int, masks: np.ndarray, queries: np.ndarray) -> np.ndarray:
        weights = []
        for family, beta in zip(self.families, self.fitted(np.delete(masks, place), queries), strict=True):
            own = self.predicted[np.ix_(np.asarray(family.places), masks, queries)]
            size = float(beta @ np.linalg.norm(own - own.mean(1, keepdims=True), axis=(1, 2)))
            weights.append(beta / size if size > 0 else beta)
        return self.at(weights, masks[place : place + 1], queries)

    def fitted(self, masks: np.ndarray, queries: np.ndarray) -> list[np.ndarray]:
        """β ≥ 0 of every family's mixture, by non-negative least squares on these retrainings and queries."""
        truth = self.truth[np.ix_(masks, queries)]
        return [
            mixture_weights(self.predicted[np.ix_(np.asarray(family.places), masks, queries)], truth)
            for family in self.families
        ]

    def at(self, weights: list[np.ndarray], masks: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Predictions of all settings, and of the mixtures with these weights, (f + k, r, m)."""
        own = self.predicted[:, masks][:, :, queries]
        mixed = [
            np.tensordot(beta, own[list(family.places)], 1) for beta, family in zip(weights, self.families, strict=True)
        ]
        return np.concatenate([own, np.stack(mixed)]) if mixed else own

    def setting(self, place: int, weights: list[np.ndarray]) -> Setting:
        """A living setting by its place among all, mixtures last; terms without weight left out."""
        if place < len(self.settings):
            return self.settings[place]
        family, beta = self.families[place - len(self.settings)], weights[place - len(self.settings)]
        ridges = [self.settings[k] for k in family.places]
        terms = tuple((float(b), float(one.filter.damping)) for b, one in zip(beta, ridges, strict=True) if b > 0)  # pyright: ignore
        middle = float(np.average([one.damping for one in ridges], weights=beta))
        return Setting(family.fisher, Mixture(terms, family.relative), middle)

    def scale(self, place: int, weights: list[np.ndarray], masks: np.ndarray, queries: np.ndarray) -> float:
        """What a setting's predictions are to be multiplied by; one for a mixture, which was fitted to scale."""
        own = self.at(weights, masks, queries)[place]
        slope = pooled(own, self.truth[np.ix_(masks, queries)])[0]
        return slope if place < len(self.settings) and slope > 0 else 1.0

    @cached_property
    def everything(self) -> tuple[np.ndarray, np.ndarray]:
        """All retrainings and all queries."""
        return np.arange(self.truth.shape[0]), np.arange(self.truth.shape[1])


@dataclass(frozen=True)
class Judged:
    """What settings and the choice of one are worth on retrainings and queries that had no part in either.

    Attributes:
        ranks, slopes, pearsons: of every setting, mixtures fitted on the other half of retrainings and queries, (f + k,).
        rank, slope, pearson: of whichever setting the other half chose, on the scale it measured there.
    """

    ranks: np.ndarray
    slopes: np.ndarray
    pearsons: np.ndarray
    rank: float
    slope: float
    pearson: float
    kept: bool = False
    """True where a setting that needed no choosing was judged better, and stays."""

    def of(self, place: int) -> Judged:
        """The same judgement with one setting, fixed beforehand, as the choice."""
        rank, slope, pearson = (float(column[place]) for column in (self.ranks, self.slopes, self.pearsons))
        return replace(self, rank=rank, slope=slope, pearson=pearson, kept=True)

    @property
    def hindsight(self) -> float:
        """The best rank correlation that any setting reached."""
        return float(self.ranks.max())

    @property
    def regret(self) -> float:
        """(best in hindsight − chosen) / best in hindsight; NaN where even the best is not above zero."""
        return (self.hindsight - self.rank) / self.hindsight if self.hindsight > 0 else float("nan")


def judge(contest: Contest, components: int, seed: int) -> Judged:
    """Choose on half of the retrainings and queries, judge on the other half of both; again with retrainings swapped."""
    generator = np.random.default_rng(seed)
    retrained, rows = contest.truth.shape
    masks = np.array_split(generator.permutation(retrained), HALVES)
    owners = np.array_split(generator.permutation(rows // components), HALVES)
    queries = [np.flatnonzero(np.isin(np.arange(rows) // components, own)) for own in owners]
    found = []
    for tuning, judging in (masks, masks[::-1]):
        place, weights = contest.chosen(tuning, queries[0]), contest.fitted(tuning, queries[0])
        predicted = contest.at(weights, judging, queries[1])
        truth = contest.truth[np.ix_(judging, queries[1])]
        fits = np.asarray([pooled(one, truth) for one in predicted])  # (f + k, 2)
        scores = np.column_stack([rank_scores(predicted, truth), fits])
        scale = contest.scale(place, weights, tuning, queries[0])
        found.append((scores, scores[place] / np.asarray([1.0, scale, 1.0])))
    table, own = (np.mean(column, 0) for column in zip(*found, strict=True))
    rank, slope, pearson = map(float, own)
    return Judged(table[:, 0], table[:, 1], table[:, 2], rank, slope, pearson)


def rank_scores(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Spearman's correlation over retrainings, averaged over queries, of every setting, (f,)."""
    return linear_scores(stats.rankdata(predicted, axis=1), stats.rankdata(truth, axis=0))


def linear_scores(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson's correlation over retrainings, averaged over queries, of every setting, (f,).

    A query the retrainings do not move says nothing and is left out; one that a setting does not predict to move
    counts as zero.
    """
    moved = np.ptp(truth, axis=0) > 0
    if not moved.any():
        return np.zeros(len(predicted))
    own, real = predicted - predicted.mean(1, keepdims=True), truth - truth.mean(0)
    size = np.linalg.norm(own, axis=1) * np.linalg.norm(real, axis=0)  # (f, m)
    products = np.einsum("frm,rm->fm", own, real)
    found = np.divide(products, size, out=np.zeros_like(products), where=size > 0)
    return found[:, moved].mean(1)


def pooled(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Slope of what happened on what was predicted, and Pearson's correlation, over all once every query's mean is gone."""
    a, b = (values - values.mean(0) for values in (predicted, truth))
    own, both, other = float((a * a).sum()), float((a * b).sum()), float((b * b).sum())
    if not own > 0 or not other > 0:
        return float("nan"), float("nan")
    return both / own, both / (own * other) ** 0.5


def mixture_weights(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """β ≥ 0 with Σ_k β_k predicted_k ≈ truth once every query's mean is gone and its spread is one, (k,)."""
    about = truth - truth.mean(0)
    spread = about.std(0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    columns = ((predicted - predicted.mean(1, keepdims=True)) * scale).reshape(len(predicted), -1).T
    sizes = np.linalg.norm(columns, axis=0)
    sizes[sizes == 0] = 1.0
    return nnls(columns / sizes, (about * scale).ravel())[0] / sizes
