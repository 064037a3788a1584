"""PHReg: Cox's partial likelihood as a sum over subjects, with a hazard of its own at every event time.

The partial likelihood is no sum over subjects, but it is what is left of one (Breslow's ties) when the baseline
hazards e^{α_t} have been maximised over: ℓᵢ = Σ_{t at risk} e^{α_t + xᵢ′β} − dᵢ(α_{tᵢ} + xᵢ′β). There every subject
has a term and a weight, in all risk sets it is part of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.adapters.adapted import Inference
from upweight.adapters.statsmodels.reading import Reading, names, one_predictor, refuse, values
from upweight.errors import ShapeError
from upweight.objective.joint import EventTimes
from upweight.space import ABSENT, FIXED


@dataclass(frozen=True)
class Subjects:
    """When and in which stratum subjects come, go and fail."""

    time: np.ndarray
    status: np.ndarray
    entry: np.ndarray
    stratum: np.ndarray


@dataclass(frozen=True)
class Clock:
    """The event times of every stratum, in order: (t,) each."""

    times: np.ndarray
    strata: np.ndarray

    @classmethod
    def of(cls, subjects: Subjects) -> Clock:
        """Distinct times at which somebody failed among others; who is alone at risk compares with nobody."""
        failed = subjects.status == 1
        pairs = sorted(set(zip(subjects.stratum[failed].tolist(), subjects.time[failed].tolist(), strict=True)))
        strata, times = zip(*pairs, strict=True)
        every = cls(np.asarray(times, dtype=float), np.asarray(strata))
        several = every.at_risk(subjects).sum(0) > 1
        return cls(every.times[several], every.strata[several])

    def at_risk(self, subjects: Subjects) -> np.ndarray:
        """Who is at risk at which event time, (n, t)."""
        same = subjects.stratum[:, None] == self.strata
        return same & (subjects.entry[:, None] <= self.times) & (self.times <= subjects.time[:, None])

    def targets(self, subjects: Subjects) -> Tensor:
        """At risk and failed at every event time, and zeros for the output that is x′β alone: (n, 2(t + 1))."""
        risk = self.at_risk(subjects)
        failed = risk & (subjects.time[:, None] == self.times) & (subjects.status[:, None] == 1)
        nothing = np.zeros((len(subjects.time), 1))
        return torch.as_tensor(np.hstack([risk, nothing, failed, nothing]).astype(float))


def proportional_hazards(results: Any) -> Reading:
    """β and the log hazard at every event time, at their joint maximum."""
    model = results.model
    if model.ties != "breslow":
        raise refuse(f"PHReg(ties={model.ties!r})", "ties='breslow'")
    count, exog = len(model.endog), values(model.exog)
    offset = getattr(model, "offset", None)
    subjects = Subjects(
        values(model.endog),
        np.ones(count) if model.status is None else values(model.status),
        np.zeros(count) if model.entry is None else values(model.entry),
        np.zeros(count) if model.strata is None else np.asarray(model.strata),
    )
    clock = Clock.of(subjects)
    beta = torch.as_tensor(values(results.params).copy())
    inputs = np.column_stack([one_predictor(exog, offset), np.ones(count)])
    targets = clock.targets(subjects)
    groups = getattr(results, "groups", None)
    return Reading(
        loss=EventTimes(),
        theta=torch.cat([beta, _log_hazards(exog @ beta.numpy() + (0 if offset is None else offset), targets)]),
        labels=(
            *names(results),
            *(f"log hazard at {t:g}{_of(s, model.strata)}" for t, s in zip(clock.times, clock.strata, strict=True)),
        ),
        cells=_cells(len(beta), offset is not None, len(clock.times)),
        inputs=inputs,
        targets=targets,
        weights=np.ones(count),
        inference=Inference(
            float(count),
            parameters=len(beta),
            kind="classical" if groups is None else "cluster",
            groups=None if groups is None else np.asarray(groups),
            correction=False,
            shown=slice(0, len(beta)),
        ),
        arrange=lambda exog, offset: np.column_stack([one_predictor(exog, offset), np.ones(len(exog))]),
        encode=lambda outcomes: clock.targets(_subjects(outcomes, model.strata is not None)),
        notes=("Baseline hazards, one an event time, are estimated beside the coefficients",),
    )


def _log_hazards(eta: np.ndarray, targets: Tensor) -> Tensor:
    """α_t = log(failures) − log Σ_at risk e^η."""
    risk, failed = (part[:, :-1] for part in targets.chunk(2, 1))
    return torch.log(failed.sum(0)) - torch.log(torch.as_tensor(np.exp(eta)) @ risk)


def _cells(slopes: int, offset: bool, times: int) -> Tensor:
    """Output t: the common slopes, the offset, and α_t; the last output without a hazard."""
    cells = torch.full((times + 1, slopes + offset + 1), ABSENT)
    cells[:, :slopes] = torch.arange(slopes)
    if offset:
        cells[:, slopes] = FIXED
    cells[:-1, -1] = torch.arange(slopes, slopes + times)
    return cells


def _of(stratum: Any, strata: Any) -> str:
    return "" if strata is None else f" in stratum {stratum}"


def _subjects(outcomes: np.ndarray, stratified: bool) -> Subjects:
    """Queries' outcomes: time and status, and the stratum where there are strata."""
    found = np.asarray(outcomes)
    if found.ndim != 2 or found.shape[1] != 2 + stratified:
        raise ShapeError(
            f"found outcomes of shape {found.shape}. Expected (m, {2 + stratified}): time, status{', stratum' if stratified else ''} of every query; leave them out for measure='prediction'."
        )
    stratum = found[:, 2] if stratified else np.zeros(len(found))
    return Subjects(found[:, 0].astype(float), found[:, 1].astype(float), np.zeros(len(found)), stratum)
