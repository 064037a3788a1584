"""Models retrained on random subsets of the training set, and what that did to every query: a truth that is paid for once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upweight._typing import Bool, Float, Tensor
from upweight.errors import ConfigError, NonFiniteInput, ShapeError
from upweight.evaluate.altered import Altered, as_trained
from upweight.evaluate.arguments import fitted_of, read_count, read_numbers, read_share
from upweight.evaluate.fingerprint import fingerprint
from upweight.evaluate.refit import refit_altered, require_refits
from upweight.evaluate.retraining import Retraining, as_retraining
from upweight.evaluate.states import Train, measured_at, measured_of, require_unchanged
from upweight.fitted import Fitted
from upweight.influence.effects import Effects
from upweight.questions.measuring import Measurement
from upweight.questions.question import MeasureLike, Question
from upweight.store import read_npz, write_npz

ROUNDING = 1e-9
"""So that .29 of 100 points are 29."""


def halves(weights: Float[Tensor, "n"], count: int, seed: int) -> Float[Tensor, "r n"]:
    """Weights of random halves of the training set, each keeping ⌊n/2⌋ points and the whole set's total weight.

        w′ᵢ = wᵢ Σw / Σ_kept w  on the points kept (2/n each where weights are equal and n is even), else 0

    Raises:
        ConfigError: a half without any weight.
    """
    kept = torch.as_tensor(random_subsets(len(weights), count, 0.5, seed), device=weights.device)
    found = torch.where(kept, weights, torch.zeros_like(weights))
    held = found.sum(1, keepdim=True)
    if not bool((held > 0).all()):
        raise ConfigError(
            f"a random half of {len(weights)} training points has a total weight of {float(held.min())}. Expected one above zero; leave points without weight out of the training set."
        )
    return found * (weights.sum() / held)


def random_subsets(n: int, count: int, alpha: float = 0.5, seed: int = 0) -> Bool[np.ndarray, "r n"]:
    """Which points each of ``count`` random subsets keeps: ⌊αn⌋ of n, drawn without replacement.

    Raises:
        ConfigError: a share that keeps nobody or everybody, or no subset.
    """
    n, count, share = read_count(n, "n", None), read_count(count, "count", None), read_share(alpha, "alpha")
    size = int(share * n + ROUNDING) if 0 < share < 1 else 0
    if count < 1 or not 0 < size < n:
        raise ConfigError(
            f"found alpha={alpha} of {n} points and count={count}. Expected 0 < alpha < 1 that keeps at least one point and leaves one out, and at least one subset."
        )
    generator = np.random.default_rng(read_count(seed, "seed", 0))
    kept = np.zeros((count, n), dtype=bool)
    for row in kept:
        row[generator.permutation(n)[:size]] = True
    return kept


@dataclass(frozen=True, repr=False)
class SubsetTruth:
    """What models retrained on subsets measure at every query.

    Attributes:
        kept: (r, n) which training points each subset keeps.
        outputs: (s, r, m) the measurement after retraining, s seeds, r subsets, m queries.
        before: (s, m) the same for models retrained on everything; empty, (0, m), where nobody asked.
        raised: (r,) by what factor the weights of the points kept were raised.
        measure: what was measured.
        query_ids, train_ids: names of the queries and of the training points.
    """

    kept: np.ndarray
    outputs: np.ndarray
    before: np.ndarray
    raised: np.ndarray
    measure: str
    query_ids: np.ndarray
    train_ids: np.ndarray

    def __post_init__(self) -> None:
        if self.kept.ndim != 2 or self.kept.dtype != bool or self.kept.shape[1] != len(self.train_ids):
            raise ShapeError(
                f"found masks of shape {self.kept.shape} and type {self.kept.dtype} for {len(self.train_ids)} training points. Expected booleans (r, {len(self.train_ids)}), true for points that are kept."
            )
        expected = (len(self.kept), len(self.query_ids))
        if self.outputs.ndim != 3 or self.outputs.shape[1:] != expected or self.before.shape[1:] != expected[1:]:
            raise ShapeError(
                f"found outputs of shape {self.outputs.shape} and {self.before.shape} of the whole set. Expected (seeds, {expected[0]}, {expected[1]}) and (seeds, {expected[1]}): subsets, queries."
            )
        if not (np.isfinite(self.outputs).all() and np.isfinite(self.before).all()):
            raise NonFiniteInput("found outputs of retrained models that are not finite. Expected finite measurements; the retraining diverged.")  # fmt: skip

    @classmethod
    def of(cls, kept: Any, outputs: Any, measure: str = "loss") -> SubsetTruth:
        """A truth that somebody else retrained: masks (r, n) and outputs (r, m) or (seeds, r, m), each subset's mean loss minimised."""
        masks, found = read_numbers(kept, "masks"), read_numbers(outputs, "outputs")
        masks = masks.astype(bool) if np.isin(masks, (0, 1)).all() else masks
        found = found[None] if found.ndim == 2 else found
        if masks.ndim != 2 or found.ndim != 3:
            raise ShapeError(
                f"found masks of shape {masks.shape} and outputs of shape {found.shape}. Expected (r, n) and (seeds, r, m)."
            )
        raised = masks.shape[1] / np.maximum(masks.sum(1), 1)
        ids = np.arange(found.shape[2]), np.arange(masks.shape[1])
        return cls(masks, found, np.empty((0, found.shape[2])), raised, measure, *ids)

    @property
    def mean(self) -> Float[np.ndarray, "r m"]:
        """The measurement of every subset and query, averaged over seeds."""
        return self.outputs.mean(0)

    @property
    def seeds(self) -> int:
        """How many seeds every subset was retrained from."""
        return len(self.outputs)

    @property
    def name(self) -> str:
        """A digest of masks and outputs."""
        return fingerprint(self.kept, self.outputs)

    def predicted(self, scores: Any) -> Float[np.ndarray, "r m"]:
        """What single points' effects predict for every subset, first order: Σᵢ (1 − w′ᵢ/wᵢ) · drop effect of i.

        Raises:
            ShapeError: scores that are not (m, n), or of other queries or points; NonFiniteInput.
        """
        values = self.read(scores)
        return (1 - self.kept * self.raised[:, None]) @ values.T

    def read(self, scores: Any) -> Float[np.ndarray, "m n"]:
        """Scores as a finite array that fits: a row a query, a column a training point."""
        found = read_numbers(scores, "scores")
        expected = len(self.query_ids), len(self.train_ids)
        if found.shape != expected:
            turned = " It looks transposed; pass scores.T." if found.shape == expected[::-1] else ""
            raise ShapeError(
                f"found scores of shape {found.shape}. Expected {expected}: a row a query, a column a training point.{turned}"
            )
        if not np.isfinite(found).all():
            raise NonFiniteInput(
                f"found {int((~np.isfinite(found)).sum())} scores that are not finite. Expected finite numbers; find where they come from first."
            )
        if isinstance(scores, Effects) and list(map(str, scores.train_ids)) != list(map(str, self.train_ids)):
            raise ShapeError(
                "found effects whose training points have other names or another order than the truth's. Expected the same training set; ask for all points, in order."
            )
        return found

    def __repr__(self) -> str:
        r, n = self.kept.shape
        return f"SubsetTruth of {r} subsets of {n:,} points ({self.kept.mean():.0%} kept) × {self.seeds} seed{'s' * (self.seeds > 1)} × {len(self.query_ids)} queries, measured by {self.measure}"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write masks, outputs and names to one npz file; read back with ``SubsetTruth.load``."""
        arrays = {name: getattr(self, name) for name in ("outputs", "before", "raised")}
        arrays |= {"kept": np.packbits(self.kept, axis=1), "measure": np.asarray(self.measure)}
        return write_npz(path, arrays | {name: _plain(getattr(self, name)) for name in ("query_ids", "train_ids")})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SubsetTruth:
        """Read what ``save`` wrote.

        Raises:
            StoreError: the file is missing, damaged, or holds something else.
        """
        names = ("kept", "outputs", "before", "raised", "measure", "query_ids", "train_ids")
        found = read_npz(path, names)
        kept = np.unpackbits(found["kept"], axis=1, count=len(found["train_ids"])).astype(bool)
        return cls(
            kept,
            found["outputs"],
            found["before"],
            found["raised"],
            str(found["measure"]),
            found["query_ids"],
            found["train_ids"],
        )


def subset_truth(
    study: Any,
    query: Any,
    *,
    train: Train | Retraining | None = None,
    count: int = 100,
    alpha: float = 0.5,
    seeds: int = 5,
    measure: MeasureLike = "loss",
    masks: Any = None,
    seed: int = 0,
    progress: bool | None = None,
) -> SubsetTruth:
    """Retrain on random subsets, several times each, and measure every query: the truth that LDS is scored against.

    Args:
        study: a ``uw.Study``; its scores are not asked for, only its data, measures and protocol.
        train: (weights, seed) → state dict, a ``Training``, or a ``Retraining`` that keeps what is finished in a folder.
            Newton from θ̂ otherwise, where the model is small or linear; seeds then make no difference, and one is taken.
        count, alpha: subsets, and the share of the training set that each keeps.
        seeds: retrainings of each subset: they average chance out and tell the ceiling.
        masks: (r, n) booleans, true for points that are kept, in place of random ones.

    Raises:
        ShapeError, ConfigError: masks of the wrong length, that keep nobody, or are no booleans; a ``train`` that gives the same
            parameters at two masks or from two seeds. NonFiniteInput: a retraining diverged.

    Error and cost:
        count × seeds + seeds retrainings, those on everything included. The standard error of the mean over seeds is σ/√seeds.
    """
    fitted, seeds = fitted_of(study, "subset_truth"), read_count(seeds, "seeds")
    question = Question(fitted, query, measure, "first")
    measured = _of_queries(question)
    kept = random_subsets(fitted.objective.count, count, alpha, seed) if masks is None else _read_masks(fitted, masks)
    altered = [Altered(torch.where(torch.as_tensor(row), fitted.weights.cpu(), 0.0).to(fitted.weights)) for row in kept]
    whole = Altered(fitted.weights)
    if train is None:
        require_refits(fitted, "subset_truth")
        outputs = np.stack([_at(question, refit_altered(fitted, one).theta) for one in [*altered, whole]])[None]
    else:
        outputs = retrained_outputs(
            question, measured, as_trained(fitted, [*altered, whole]), range(seed, seed + seeds), train, progress
        )
    raised = np.full(len(kept), 1.0)
    if fitted.protocol == "fixed_mean":
        raised = np.asarray([fitted.objective.total_weight / one.total for one in altered])
    ids = measured.ids, fitted.objective.examples.ids
    return SubsetTruth(kept, outputs[:, :-1], outputs[:, -1], raised, measured.name, *ids)


def retrained_outputs(
    question: Question,
    measured: Measurement | None,
    weights: Float[np.ndarray, "r n"],
    seeds: Sequence[int],
    train: Train | Retraining,
    progress: bool | None = None,
) -> Float[np.ndarray, "s r m"]:
    """The measurement after retraining at every weighting from every seed, float64."""
    retraining, fitted = as_retraining(train, progress), question.fitted
    rows = np.concatenate([weights] * len(seeds))
    owners = np.repeat(np.asarray(seeds), len(weights))
    found: dict[int, np.ndarray] = {}
    for place, state in retraining.states(rows, owners.tolist()):
        require_unchanged(fitted)
        found[place] = measured_of(question, measured, state).cpu().numpy()
    return np.stack([found[place] for place in range(len(rows))]).reshape(len(seeds), len(weights), -1)


def measured_changes(
    question: Question,
    measured: Measurement,
    weights: Float[Tensor, "r n"],
    seed: int,
    train: Train | Retraining | None,
    progress: bool | None,
) -> np.ndarray:
    """Δ = φ(θ_r) − φ(θ̂) of every query at each retrained model, (r, m), float64.

    Raises:
        BudgetError: no ``train``, and a model too large for Newton's method.
        ConfigError, ShapeError, NonFiniteInput: ``train`` returned no state dict of this model.
        ModelError: ``train`` changed the study's own model.
        NotConverged: a refit did not reach a minimum; pass ``train``.
    """
    fitted = question.fitted
    if train is not None:
        before = measured.at_outputs(measured.outputs.double()).cpu().numpy()
        return retrained_outputs(question, measured, weights.cpu().numpy(), [seed], train, progress)[0] - before
    before = _at(question, fitted.objective.theta.double())
    return np.stack([_at(question, refit_altered(fitted, Altered(row)).theta) - before for row in weights])


def _at(question: Question, theta: Float[Tensor, "p"]) -> Float[np.ndarray, "r"]:
    return measured_at(question, theta).cpu().numpy()


def _of_queries(question: Question) -> Measurement:
    if question.measured is None or question.measured.over_set:
        raise ConfigError(
            f"subset_truth found measure={question.measure!r}. Expected a measure of each query, such as 'loss' or 'margin'."
        )
    return question.measured


def _read_masks(fitted: Fitted, masks: Any) -> Bool[np.ndarray, "r n"]:
    found, n = np.asarray(masks), fitted.objective.count
    if found.ndim != 2 or found.shape[1] != n or found.dtype != bool:
        raise ShapeError(
            f"subset_truth found masks of shape {found.shape} and type {found.dtype}. Expected booleans (r, {n}): a column a training point, true where it is kept."
        )
    if not (found @ (fitted.weights.cpu().numpy() > 0)).all():
        raise ConfigError("subset_truth found a mask that keeps no weight. Expected at least one point to train on.")
    return found


def _plain(ids: np.ndarray) -> np.ndarray:
    """Names as numbers or texts, which an npz file holds without pickling."""
    return ids if ids.dtype.kind in "iufbU" else np.asarray([str(item) for item in ids.tolist()])
