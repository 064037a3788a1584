"""The linear datamodeling score: do single points' scores, added up, rank retrained subsets as they really turned out?  [Park23 LDS]

    LDS(q) = Spearman over subsets S of  Σ_{i ∉ S} drop effect of i on q   and   φ_q after retraining on S;   mean over q

The ceiling is the correlation that a perfect score could reach with a truth that is itself averaged over few seeds: √r, with r the
truth's reliability, from halves of the seeds by Spearman and Brown [SB10 reliability]:

    r = k r₁ / (1 + (k − 1) r₁),  r₁ the correlation of two means of h seeds, k = s/h
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from upweight._typing import Float
from upweight.errors import ConfigError
from upweight.evaluate.agreement import warn_of_sign
from upweight.evaluate.contest import pooled
from upweight.evaluate.estimates import DRAWS, Estimate, bootstrapped
from upweight.evaluate.fingerprint import fingerprint
from upweight.evaluate.subsets import SubsetTruth

SPLITS = 50
"""Ways of cutting the seeds in two whose reliabilities are averaged."""

FEWEST = 3
"""Subsets below which there are no ranks to speak of."""


@dataclass(frozen=True, repr=False)
class LDS:
    """How scores rank retrained subsets.

    Attributes:
        score: Spearman over subsets, averaged over queries, with an interval over subsets and queries.
        per_query: (m,); NaN for a query that no retraining moved, which is left out of the mean.
        slope: what happened per unit of what was predicted, once every query's mean is gone: 1 when the scale is right.
        pearson: correlation of the same.
        reliability: r of the truth, NaN with one seed.
        truth: what it was scored against, in words.
    """

    score: Estimate
    per_query: np.ndarray
    slope: Estimate
    pearson: Estimate
    reliability: float
    truth: str

    @property
    def ceiling(self) -> float:
        """√r, what a perfect score would reach; NaN with one seed."""
        return self.reliability**0.5

    @property
    def words(self) -> str:
        """The result in plain words."""
        ceiling = (
            "unknown from one seed"
            if np.isnan(self.ceiling)
            else f"{self.ceiling:.3f}, of which this is {self.score.value / self.ceiling:.0%}"
        )
        return f"LDS {self.score!r}; slope {self.slope!r}, Pearson {self.pearson!r}; ceiling {ceiling}. {self.truth}"

    def __repr__(self) -> str:
        return f"{self.words}."


def lds(scores: Any, truth: SubsetTruth | str | os.PathLike[str], draws: int = DRAWS, seed: int = 0) -> LDS:
    """The linear datamodeling score of any scores against models retrained on subsets.

    Args:
        scores: (m, n), a row a query, a column a training point: the predicted change of the truth's measurement if the point is
            left out, as ``study.drop`` gives it. Another library's "more of the point raises it" has the other sign.
        truth: of ``subset_truth``, or the npz file it was saved to.
        draws, seed: of the bootstrap over subsets and queries; the same for two scores that are to be compared.

    Returns:
        LDS with .score (an Estimate with its 95 % interval), .per_query, .ceiling, .slope.

    Raises:
        ShapeError, NonFiniteInput: scores that are not (m, n), or not finite. ConfigError: fewer than three subsets.

    Warns:
        SignWarning: the score is clearly below zero.
    """
    known = _truth_of(truth)
    if len(known.kept) < FEWEST:
        raise ConfigError(f"lds found {len(known.kept)} subsets. Expected at least {FEWEST}; a hundred are usual.")
    predicted, real = known.predicted(scores), known.mean

    def of(rows: np.ndarray, columns: np.ndarray) -> tuple[float, float, float]:
        own, true = predicted[np.ix_(rows, columns)], real[np.ix_(rows, columns)]
        return (_mean(rank_correlations(own, true)), *pooled(own, true))

    everything = np.arange(len(real)), np.arange(real.shape[1])
    values = bootstrapped(of, (len(real), real.shape[1]), draws, seed)
    source = fingerprint("lds", known.name, draws, seed)
    score, slope, pearson = (Estimate(value, values[:, k], source) for k, value in enumerate(of(*everything)))
    warn_of_sign(score, "retrained subsets")
    return LDS(score, rank_correlations(predicted, real), slope, pearson, reliability(known.outputs, seed), repr(known))


def _truth_of(truth: SubsetTruth | str | os.PathLike[str]) -> SubsetTruth:
    if isinstance(truth, SubsetTruth):
        return truth
    if not isinstance(truth, str | os.PathLike):
        raise ConfigError(
            f"lds found {type(truth).__name__} for its truth. Expected what subset_truth() returned, or the path of the file it was saved to; for masks and outputs of your own use SubsetTruth.of(kept, outputs)."
        )
    return SubsetTruth.load(truth)


def rank_correlations(predicted: Float[np.ndarray, "r m"], real: Float[np.ndarray, "r m"]) -> Float[np.ndarray, "m"]:
    """Spearman over subsets of every query: NaN where nothing moved, zero where nothing was predicted to."""
    a, b = stats.rankdata(predicted, axis=0), stats.rankdata(real, axis=0)
    a, b = a - a.mean(0), b - b.mean(0)
    sizes, moved = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0), b.any(0)
    found = np.divide((a * b).sum(0), sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    return np.where(moved, found, np.nan)


def reliability(outputs: Float[np.ndarray, "s r m"], seed: int = 0) -> float:
    """r of the mean over seeds, from halves of them; NaN with one seed."""
    count = len(outputs)
    if count < 2:
        return float("nan")
    generator, half = np.random.default_rng(seed), count // 2
    found = []
    for _ in range(SPLITS):
        order = generator.permutation(count)
        first, second = outputs[order[:half]].mean(0), outputs[order[half : 2 * half]].mean(0)
        found.append(_mean(rank_correlations(first, second)))
    single, longer = float(np.mean(found)), count / half
    return max(0.0, longer * single / (1 + (longer - 1) * single))


def _mean(values: np.ndarray) -> float:
    alive = values[np.isfinite(values)]
    return float(alive.mean()) if len(alive) else float("nan")
