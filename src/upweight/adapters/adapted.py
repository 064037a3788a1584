"""What an adapter returns: an objective, and how the user's data and labels read into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.errors import LabelError
from upweight.objective import Examples, Objective, read_examples
from upweight.objective.randomised import Keyed


class Codec(ABC):
    """How data in the user's form become examples of the objective, and targets become labels."""

    @abstractmethod
    def read(self, data: Any, what: str, ids: Any = None) -> Examples:
        """The user's data as examples; ``what`` names them in messages."""

    @abstractmethod
    def target(self, label: Any, like: Tensor) -> Tensor:
        """One label as one target, in the type and shape of another."""

    @abstractmethod
    def label(self, target: Any) -> Any:
        """One class index as the user's label."""


@dataclass(frozen=True)
class PlainCodec(Codec):
    """Data are what the model takes, labels what the loss takes."""

    dtype: torch.dtype

    def read(self, data: Any, what: str, ids: Any = None) -> Examples:
        if isinstance(data, Tensor | np.ndarray) and np.ndim(data) > 0 and what != "training set":
            data = (data, None)  # inputs alone, for measure='prediction'
        if isinstance(data, tuple | list) and len(data) == 2 and data[1] is None and what != "training set":
            data = (data[0], np.empty((len(data[0]), 0)))
        return read_examples(data, self.dtype, ids, what)

    def target(self, label: Any, like: Tensor) -> Tensor:
        found = torch.as_tensor(label)
        if not like.is_floating_point() and found.is_floating_point():
            raise LabelError(f"found the label {label!r}. Expected an integer class, like the training labels.")
        return found.to(like.dtype).reshape(like.shape)

    def label(self, target: Any) -> Any:
        return target


@dataclass(frozen=True)
class RandomisedCodec(PlainCodec):
    """Examples come with keys of their own noise, targets one a draw."""

    def read(self, data: Any, what: str, ids: Any = None) -> Examples:
        return Keyed.of(super().read(data, what, ids))

    def target(self, label: Any, like: Tensor) -> Tensor:
        return super().target(label, like[0]).expand_as(like)

    def label(self, target: Any) -> Any:
        return super().label(target[0])


CORNER = "The corner of the"
"""How the note about a smoothed corner begins."""


@dataclass(frozen=True)
class Inference:
    """What standard errors need to know beyond the objective.

    Attributes:
        unit: the user's weight per unit of the objective's: n for a mean loss, Σω where weights ω were scaled to 1.
        counts: how many observations a row stands for (frequency weights); None is one each.
        dispersion: 'one' for likelihoods, 'estimated' (Pearson's), a number that was held, or None where a
            classical covariance has no meaning.
        expected: classical standard errors are of the expected curvature, as iteratively reweighted least squares gives it.
        parameters: how many are estimated, for degrees of freedom; all of θ by default.
        kind: the covariance that is meant where none is asked for: 'classical', 'hc0' to 'hc3', 'cluster'; a
            sentence in its place says what the fit has that is not known here.
        groups: labels of clusters.
        unknown: why no standard error can be had at all; empty where they can.
        correction: clusters are corrected for their number, as statsmodels and Stata do.
        student: t quantiles, not normal ones.
        shown: where in θ the parameters of interest lie, where others only serve (baseline hazards); None is all.
    """

    unit: float
    counts: np.ndarray | None = None
    dispersion: str | float | None = "one"
    expected: bool = False
    parameters: int | None = None
    kind: str = "classical"
    groups: np.ndarray | None = None
    unknown: str = ""
    correction: bool = True
    student: bool = False
    shown: slice | None = None


@dataclass(frozen=True)
class Adapted:
    """A fitted thing, ready to be studied.

    Attributes:
        protocol: what refitting the same estimator would do to the penalty, 'fixed_mean' or 'fixed_total'.
        notes: what every result of this study must say.
        was_training: the model was found in train mode.
        inference: what standard errors need; None is a mean loss of n examples, and what its loss says.
    """

    objective: Objective
    protocol: str
    codec: Codec
    notes: tuple[str, ...] = ()
    was_training: bool = False
    inference: Inference | None = None

    @property
    def smoothed(self) -> bool:
        """The loss of the fit has a corner that is smoothed here, for refits as well."""
        return any(note.startswith(CORNER) for note in self.notes)
