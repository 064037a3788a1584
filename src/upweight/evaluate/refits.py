"""The same questions as a study's, answered by doing it: make the change, refit, measure again, subtract."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from upweight._typing import Float, Index
from upweight.errors import ConfigError
from upweight.evaluate.altered import (
    Altered,
    Joined,
    as_trained,
    dropped,
    extra_of,
    relabelled,
    replaced,
    reweighted,
    with_added,
    without_groups,
)
from upweight.evaluate.arguments import fitted_of, read_seeds
from upweight.evaluate.bregman import responses
from upweight.evaluate.fingerprint import fingerprint
from upweight.evaluate.finished import Finished, finished_in
from upweight.evaluate.noise import NoiseFloor, noise_floor
from upweight.evaluate.refit import Minimum, refit_altered, require_refits
from upweight.evaluate.retraining import Retraining, as_retraining
from upweight.evaluate.states import Train, measured_at
from upweight.evaluate.subsets import retrained_outputs
from upweight.evaluate.training import Training
from upweight.fitted import Fitted
from upweight.influence.effects import Effects
from upweight.questions.question import MeasureLike, Question

TRUTHS = ("auto", "refit", "pbrf")


@dataclass(frozen=True, repr=False)
class Refitted:
    """What a change really did.

    Attributes:
        effects: the change of every measurement, (m, k), averaged over seeds; labelled like a study's answer to the same question.
        changes: (s, m, k), from every seed: with the change less without it, both from that seed.
        before: (s, m), the measurement without any change.
    """

    effects: Effects
    changes: np.ndarray
    before: np.ndarray

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.effects.__array__(dtype, copy)

    @property
    def seeds(self) -> int:
        """Retrainings of each."""
        return len(self.changes)

    @property
    def standard_error(self) -> Float[np.ndarray, "m k"]:
        """Of the mean over seeds, from the spread of seed-by-seed changes; NaN with one seed."""
        if self.seeds < 2:
            return np.full(self.effects.values.shape, np.nan)
        return self.changes.std(0, ddof=1) / self.seeds**0.5

    @cached_property
    def noise(self) -> NoiseFloor | None:
        """How many retrainings it would take to see each effect; None with one seed, which tells nothing of chance."""
        return noise_floor(self.effects.values, self.before) if self.seeds > 1 else None

    def __repr__(self) -> str:
        seen = "" if self.noise is None else f"\nSeed noise: {self.noise.words}."
        return f"{self.effects!r}{seen}"


@dataclass(frozen=True, repr=False)
class Refits:
    """A study's questions, answered by refitting: ``Refits(study).drop(query)`` is what ``study.drop(query)`` predicts.

    Args:
        study: a ``uw.Study``.
        train: (weights, seed) → state dict, a ``Training``, or a ``Retraining`` with a folder for what is finished. Weights (n,) are
            those after the change; under 'fixed_mean' they sum to the study's total, so that a weight decay of its own stays what
            it is a point, under 'fixed_total' what leaves is not made up for. New labels and new points need a ``Training``.
        seeds: how many retrainings of each, or which seeds.
        truth: 'refit', really refitting; 'pbrf', the proximal Bregman response; 'auto', the first where ``train`` is given or Newton's
            method can be used from θ̂ (a linear model, or a small network at a minimum), else the second.
        folder: where finished refits are kept, one by one, so that none is taken twice; in memory, as long as this object lives, by
            default. A ``Retraining`` has a folder of its own.
        progress: show a progress bar; None shows one on a terminal.

    Raises:
        ConfigError: an unknown truth, or seeds without ``train``. BudgetError: a model too large for Newton's method.
        NotConverged: a refit did not reach a minimum, or a response did not converge.

    Error and cost:
        Newton: a few passes over the data each, to ‖∇Q‖ ≤ 1e-11 of a typical ‖∇ℓᵢ‖ in float64 (1e-5 in float32), which the answer
        states. Proximal responses: to 1e-5 of the gradient each change began with. Retrainings: as ``train`` is.
    """

    study: Any
    train: Train | Retraining | None = None
    seeds: int | Sequence[int] = 1
    truth: str = "auto"
    folder: str | os.PathLike[str] | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.truth not in TRUTHS:
            raise ConfigError(f"truth={self.truth!r} is unknown. Expected one of {', '.join(TRUTHS)}.")
        if self.truth == "pbrf" and self.train is not None:
            raise ConfigError(
                "truth='pbrf' found train=. Expected none: a proximal response is not trained; leave it out."
            )
        if not self.chosen_seeds or (self.train is None and len(self.chosen_seeds) > 1):
            raise ConfigError(
                f"found seeds={self.seeds!r}{'' if self.train is not None else ' without train='}. Expected at least one, and one without train=: Newton's method has no chance in it."
            )
        if self.folder is not None and isinstance(self.train, Retraining):
            raise ConfigError(
                "folder= found train= that is a Retraining. Expected one folder; give it to the Retraining."
            )
        if self.kind == "refit" and self.train is None:
            require_refits(self.fitted, "a refit")

    @property
    def fitted(self) -> Fitted:
        """What is refitted."""
        return fitted_of(self.study, "Refits")

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        """The seeds of retrainings."""
        return read_seeds(self.seeds)

    @property
    def kind(self) -> str:
        """'refit' or 'pbrf', resolved."""
        return self.truth if self.truth != "auto" else best_truth(self.fitted, self.train)

    def drop(self, query: Any = None, *, which: Index | None = None, measure: MeasureLike = "loss", aggregate: str | None = None) -> Refitted:  # fmt: skip
        """Leave each point out."""
        places = self.fitted.positions(which)
        ids = self.fitted.objective.examples.ids[places]
        return self._answer("drop", dropped(self.fitted, places), ids, query, measure, aggregate)

    def drop_group(self, groups: Any, query: Any = None, *, measure: MeasureLike = "loss", aggregate: str | None = None) -> Refitted:  # fmt: skip
        """Leave whole groups out."""
        names, altered = without_groups(self.fitted, groups)
        return self._answer("drop_group", altered, names, query, measure, aggregate)

    def reweight(self, weights: Any, query: Any = None, *, measure: MeasureLike = "loss", aggregate: str | None = None) -> Refitted:  # fmt: skip
        """Give the training set other weights, a weighting a row."""
        altered = reweighted(self.fitted, weights)
        return self._answer("reweight", altered, np.arange(len(altered)), query, measure, aggregate)

    def relabel(self, labels: Mapping[Any, Any], query: Any = None, *, measure: MeasureLike = "loss", aggregate: str | None = None) -> Refitted:  # fmt: skip
        """Give each point another label, {training point: new label}."""
        places, altered = relabelled(self.fitted, labels)
        ids = self.fitted.objective.examples.ids[places]
        return self._answer("relabel", altered, ids, query, measure, aggregate)

    def replace(self, which: Index, data: Any, query: Any = None, *, measure: MeasureLike = "loss", aggregate: str | None = None) -> Refitted:  # fmt: skip
        """Put new examples in the place of points, one for one."""
        places = self.fitted.positions(which)
        ids = self.fitted.objective.examples.ids[places]
        return self._answer("replace", replaced(self.fitted, places, data), ids, query, measure, aggregate)

    def add(self, data: Any, query: Any = None, *, measure: MeasureLike = "loss", aggregate: str | None = None) -> Refitted:  # fmt: skip
        """Add each new example, at the mean weight."""
        ids, altered = with_added(self.fitted, data)
        return self._answer("add", altered, ids, query, measure, aggregate)

    def _answer(
        self, asked: str, altered: list[Altered], ids: np.ndarray, query: Any, measure: MeasureLike, aggregate: str | None
    ) -> Refitted:  # fmt: skip
        """Carry the changes out and measure; measure='parameters' gives the moved parameters, like a study's."""
        question = Question(self.fitted, query, measure, "first", aggregate)
        measured = question.measured
        road = self._retrained if self.train is not None else self._responded if self.kind == "pbrf" else self._refitted
        outputs, verdict = road(question, altered)  # (s, k + 1, r), the unchanged set last
        changes, before = outputs[:, :-1] - outputs[:, -1:], outputs[:, -1]
        changes = changes.transpose(0, 2, 1)
        space = self.fitted.objective.space
        effects = Effects(
            values=changes.mean(0),
            query_ids=np.asarray(space.coordinates()) if measured is None else measured.ids,
            train_ids=np.asarray(ids),
            question=asked,
            estimand="response",
            measure="parameters" if measured is None else measured.name,
            unit="parameter units" if measured is None else measured.unit,
            order=self.kind,
            protocol=self.fitted.protocol,
            verdict=verdict,
            notes=self.fitted.adapted.notes,
        )
        return Refitted(effects, changes, before)

    def _refitted(self, question: Question, altered: list[Altered]) -> tuple[np.ndarray, str]:
        found, worst = [], 0.0
        for one in self._watched([*altered, Altered(self.fitted.weights)]):
            minimum = self._minimum(one)
            worst = max(worst, minimum.gradient_norm)
            found.append(measured_at(question, minimum.theta).cpu().numpy())
        return np.stack(found)[None], f"Newton refits from θ̂ to ‖∇Q‖ ≤ {worst:.1g} of a typical ‖∇ℓᵢ‖"

    def _minimum(self, altered: Altered) -> Minimum:
        """A refit, taken or read back."""
        key = fingerprint(self.name, altered)
        kept = self.finished.get(key)
        if kept is not None:
            return Minimum(kept["theta"].to(self.fitted.weights), float(kept["gradient_norm"]))
        found = refit_altered(self.fitted, altered)
        norm = torch.tensor(found.gradient_norm, dtype=torch.float64)
        self.finished.put(key, {"theta": found.theta.cpu(), "gradient_norm": norm})
        return found

    @cached_property
    def finished(self) -> Finished:
        """Newton refits that are finished."""
        return finished_in(self.folder)

    @cached_property
    def name(self) -> str:
        """A digest of what is refitted: the parameters it begins with, the data, the loss, the penalty and the protocol."""
        o = self.fitted.objective
        return fingerprint(o.theta, o.examples, o.loss, o.forward, o.penalty.diagonal, self.fitted.protocol)

    def _responded(self, question: Question, altered: list[Altered]) -> tuple[np.ndarray, str]:
        found = responses(self.fitted, altered, self.progress)
        everything = [*found.thetas, self.fitted.objective.theta.double()]
        outputs = np.stack([measured_at(question, theta).cpu().numpy() for theta in everything])
        words = f"proximal Bregman responses at the study's λ, {found.words}: they hold solver and linearisation to account, not λ, and are no retrainings"
        return outputs[None], words

    def _retrained(self, question: Question, altered: list[Altered]) -> tuple[np.ndarray, str]:
        retraining = self.retraining
        extra = extra_of(altered)
        if extra:
            retraining = _with_data(retraining, Joined.of([_training_of(retraining).examples, *extra]))
        base = Altered(self.fitted.weights)
        weights = as_trained(self.fitted, [*altered, base])
        outputs = retrained_outputs(question, question.measured, weights, self.chosen_seeds, retraining)
        count = len(self.chosen_seeds)
        return outputs, f"retrained from {count} seed{'s' * (count > 1)}, with the change and without"

    @cached_property
    def retraining(self) -> Retraining:
        """How ``train`` is taken many times."""
        assert self.train is not None
        return as_retraining(self.train, self.progress, self.folder)

    def _watched(self, items: list[Altered]) -> Any:
        hidden = None if self.progress is None else not self.progress
        return tqdm(items, desc="refitting", unit="refit", leave=False, disable=hidden)


def best_truth(fitted: Fitted, train: Any) -> str:
    """'refit' where it can be done and means something: with ``train``, for linear models, for small networks at a minimum."""
    refittable = fitted.linear or (fitted.small and fitted.stationarity.reached)
    return "refit" if train is not None or refittable else "pbrf"


def _training_of(retraining: Retraining) -> Training:
    if not isinstance(retraining.train, Training):
        raise ConfigError(
            f"new labels or points found train= of type {type(retraining.train).__name__}, which only takes weights. Expected a uw.evaluate.Training, whose data can be changed."
        )
    return retraining.train


def _with_data(retraining: Retraining, data: Joined) -> Retraining:
    training = _training_of(retraining)
    return Retraining(
        training.over(data),
        retraining.folder,
        retraining.road,
        retraining.jobs,
        retraining.backend,
        retraining.width,
        retraining.progress,
    )
