"""The Fisher estimator and the damping, chosen by a few real retrainings on random halves of the training set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.curvature.fisher import FISHERS, MOST_LABELS, read_fisher
from upweight.errors import ConfigError
from upweight.evaluate.contest import Contest, Judged, Setting, judge, rank_scores
from upweight.evaluate.refit import require_refits
from upweight.evaluate.spectral import Spectral, gradient_sums
from upweight.evaluate.states import Train
from upweight.evaluate.subsets import halves, measured_changes
from upweight.fitted import Fitted
from upweight.linop import BlockDiagonal
from upweight.questions.measuring import Measurement
from upweight.questions.question import Question
from upweight.solve import Filter, Ridge, Segment
from upweight.solve.filters import Calibrated

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 4
"""Retrainings below which a half of them has no ranks to compare."""

SHARES = tuple(10.0 ** (k / 2) for k in range(-6, 5))
"""λ, and 1/rate, in mean eigenvalues: a thousandth to a hundred, two a decade."""


@dataclass(frozen=True, repr=False)
class Tuning:
    """What the retrainings chose, and what the choice is worth.

    Attributes:
        best: the Fisher estimator and the filter that follow all retrainings and queries best, on their scale: ridges
            and segments are multiplied by the measured slope. That is the scale of halves, not of single points.
        table: a row a setting, best judged first: fisher, filter, damping (λ or 1/rate in mean eigenvalues, of each
            block or of all), tuned (Spearman on everything, mixtures cross-fitted), and judged, slope and pearson,
            each on retrainings and queries the setting was not fitted on.
        score, slope, pearson: of the choice, made on half of the retrainings and queries and judged on the other half
            of both: Spearman over retrainings averaged over queries; slope and Pearson once each query's mean is gone.
        hindsight: the best judged Spearman of any setting.
        regret: (hindsight − score) / hindsight.
        rule: the judged Spearman of the rule that needs no retraining, None where the grid does not hold it. Where it
            is judged better than the choice, it is the choice: few retrainings may mislead.
        study: a study of the same model that uses the choice.
    """

    best: Setting
    table: pd.DataFrame
    judged: Judged
    refits: int
    queries: int
    measure: str
    rule: float | None
    study: Any

    @property
    def score(self) -> float:
        """Spearman of the choice on what it had not seen."""
        return self.judged.rank

    @property
    def slope(self) -> float:
        """What happened per unit of what was predicted: 1 when the scale is right."""
        return self.judged.slope

    @property
    def pearson(self) -> float:
        """Linear correlation once each query's mean is gone."""
        return self.judged.pearson

    @property
    def hindsight(self) -> float:
        """The best judged Spearman of any setting."""
        return self.judged.hindsight

    @property
    def regret(self) -> float:
        """(hindsight − score) / hindsight."""
        return self.judged.regret

    @property
    def words(self) -> str:
        """The result in plain sentences."""
        halves = f"{self.refits // 2} retrainings and {self.queries // 2} queries"
        if self.judged.kept:
            rule = "; the rule without retraining, which was judged better than what they chose"
        else:
            rule = "" if self.rule is None else f", by the rule without retraining {self.rule:.2f}"
        return (
            f"Fisher {self.best.fisher}, {self.best.filter.name}: chosen from {self.refits} retrainings on random halves, by the change in {self.measure} of {self.queries} queries. "
            f"Tuned on {halves} and judged on others, twice, such a choice has Spearman {self.score:.2f} (slope {self.slope:.2f}, Pearson {self.pearson:.2f}); "
            f"best in hindsight {self.hindsight:.2f}, a regret of {self.regret:.1%}{rule}."
        )

    def __repr__(self) -> str:
        return self.words


def tune(
    question: Question,
    study_of: Callable[[Fitted], Any],
    train: Train | None = None,
    refits: int = 10,
    fishers: Sequence[str] | None = None,
    dampings: Sequence[float] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Tuning:
    """Retrain on random halves, predict each with every setting of a grid, and choose.

    Everything that can be refused is refused before the first retraining.
    """
    fitted = question.fitted
    names, shares = _check(fitted, refits, fishers, dampings)
    if train is None:
        require_refits(fitted, "tune")
    measured = _measured(question)
    weights = halves(fitted.weights, refits, seed)
    truth = measured_changes(question, measured, weights, seed, train, progress)
    curvatures = {name: _curvature(fitted, name) for name in names}
    contest = predictions(fitted, measured, weights, curvatures, shares, truth)
    judged = judge(contest, len(measured.ids) // len(measured.query_ids), seed)
    everything = contest.everything
    fits, place = contest.fitted(*everything), contest.chosen(*everything)
    best = contest.setting(place, fits)
    rule = _by_rule(fitted, contest)
    if rule is not None and judged.ranks[rule] > judged.rank:
        place, judged = rule, judged.of(rule)
        best = contest.setting(place, fits)
    scale = contest.scale(place, fits, *everything)
    best = best if scale == 1.0 else replace(best, filter=Calibrated(best.filter, scale))
    chosen = f"chosen from {refits} retrainings (judged Spearman {judged.rank:.2f}, best in hindsight {judged.hindsight:.2f})"
    settings = replace(fitted.settings, fisher=best.fisher, damping=best.filter, chosen=chosen)
    found = replace(fitted, settings=settings, known=curvatures[best.fisher])
    by_rule = None if rule is None else float(judged.ranks[rule])
    table = _table(contest, judged, fits)
    return Tuning(best, table, judged, refits, len(measured.query_ids), measured.name, by_rule, study_of(found))


def predictions(
    fitted: Fitted,
    measured: Measurement,
    weights: Float[Tensor, "r n"],
    curvatures: dict[str, BlockDiagonal],
    shares: Sequence[float],
    truth: np.ndarray,
) -> Contest:
    """−T f(F) sᵀ of every setting of the grid against the truth; queries are read a tile at a time."""
    sums = gradient_sums(fitted.engine, weights - fitted.weights)
    spectra = {name: Spectral.of(curvature, sums) for name, curvature in curvatures.items()}
    settings = {name: grid(name, spectrum, shares) for name, spectrum in spectra.items()}
    tiles = []
    for tile in measured.tiles():
        found = [spectra[name].predicted(tile, [one.filter for one in own]) for name, own in settings.items()]
        tiles.append(torch.cat(found))
    together = tuple(one for own in settings.values() for one in own)
    return Contest(together, torch.cat(tiles, 2).cpu().numpy(), truth)


def grid(fisher: str, spectrum: Spectral, shares: Sequence[float]) -> list[Setting]:
    """Ridges and segments in units of each block's mean eigenvalue, and in units of the mean over all blocks."""
    mean, found = spectrum.mean, []
    for share in shares:
        filters: list[Filter] = [Ridge(share * mean), Segment(1 / (share * mean))]
        if spectrum.measurable:
            filters += [Ridge(share, relative=True), Segment(1 / share, relative=True)]
        found += [Setting(fisher, filter, share) for filter in filters]
    return found


def _check(
    fitted: Fitted, refits: int, fishers: Sequence[str] | None, dampings: Sequence[float] | None
) -> tuple[list[str], list[float]]:
    if not fitted.structured or fitted.kind == "identity":
        raise ConfigError(
            f"tune found curvature={fitted.kind!r}, which has no eigenvalues to filter. Expected 'ekfac', 'kfac', 'diagonal' or 'block_diagonal'; build the study with curvature='ekfac'."
        )
    if refits < FEWEST:
        raise ConfigError(
            f"tune found refits={refits}. Expected at least {FEWEST}: one half chooses, the other judges, and ranks need two; 10 is a good number."
        )
    outputs = fitted.objective.outputs
    if fishers is None:
        fishers = ("exact", "sampled", "empirical") if outputs <= MOST_LABELS else ("sampled", "empirical")
    named = [fishers] if isinstance(fishers, str) else list(fishers)
    if not named:
        raise ConfigError(f"tune found no Fisher estimator. Expected some of {', '.join(FISHERS)}; leave fishers= out.")
    shares = sorted({float(share) for share in (SHARES if dampings is None else dampings)})
    if not shares or not all(0 < share < float("inf") for share in shares):
        raise ConfigError(
            f"tune found dampings={list(dampings or [])}. Expected numbers above zero, in units of the mean eigenvalue, such as [0.01, 0.1, 1]; leave dampings= out for a grid."
        )
    return list(dict.fromkeys(read_fisher(name, outputs) for name in named)), shares


def _measured(question: Question) -> Measurement:
    """The measurement of every query, which must have a derivative, and at least two queries."""
    measured = question.measured
    if measured is None or measured.over_set:
        raise ConfigError(
            f"tune found measure={question.measure!r}. Expected a measure of each query with a derivative, such as 'loss' or 'margin'."
        )
    if len(measured.query_ids) < 2:
        raise ConfigError(
            "tune found one query. Expected at least 2, since some choose and the others judge; a few dozen are better."
        )
    return measured


def _curvature(fitted: Fitted, fisher: str) -> BlockDiagonal:
    """The study's kind of curvature with this Fisher; the one it has already formed where that is it."""
    own = read_fisher(fitted.settings.fisher, fitted.objective.outputs)
    if own == fisher:
        return fitted.blocked.curvature
    return replace(fitted.blocked, settings=replace(fitted.settings, fisher=fisher), known=None).curvature


def _table(contest: Contest, judged: Judged, fits: list[np.ndarray]) -> pd.DataFrame:
    import pandas as pd

    tuned = rank_scores(contest.crossed(*contest.everything), contest.truth)
    alive = np.flatnonzero(contest.alive(fits))
    settings = [contest.setting(int(place), fits) for place in alive]
    table = pd.DataFrame(
        {
            "fisher": [one.fisher for one in settings],
            "filter": [one.filter.name for one in settings],
            "damping": [one.damping for one in settings],
            "tuned": tuned[alive],
            "judged": judged.ranks[alive],
            "slope": judged.slopes[alive],
            "pearson": judged.pearsons[alive],
        }
    )
    return table.sort_values("judged", ascending=False, kind="stable", ignore_index=True)


def _by_rule(fitted: Fitted, contest: Contest) -> int | None:
    """The place of a tenth of each block's mean eigenvalue, where the grid holds it."""
    rule = Ridge(0.1, relative=True), read_fisher("auto", fitted.objective.outputs)
    found = [k for k, one in enumerate(contest.settings) if (one.filter, one.fisher) == rule]
    return found[0] if found else None
