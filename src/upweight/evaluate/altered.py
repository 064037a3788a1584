"""What a change makes of the training set: other weights, and examples that were not there before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from upweight._typing import Batch, Float, Tensor
from upweight.errors import ConfigError, InputError, NonFiniteInput, ShapeError
from upweight.fitted import Fitted
from upweight.objective import Examples
from upweight.objective.data import Arrays, Chosen, map_tensors
from upweight.questions.whole import read_groups


@dataclass(frozen=True)
class Altered:
    """A training set after a change.

    Attributes:
        weights: w′ᵢ of the training points there were, (n,), float64, in the unit of the study's.
        extra: examples that were not there, None for none.
        added: their weights, (e,).
    """

    weights: Float[Tensor, "n"]
    extra: Examples | None = None
    added: Float[Tensor, "x"] | None = None

    @property
    def total(self) -> float:
        """Σ w′ over everything."""
        return float(self.weights.sum()) + (0.0 if self.added is None else float(self.added.sum()))


def dropped(fitted: Fitted, places: np.ndarray) -> list[Altered]:
    """One training set a point, without it."""
    return [without_points(fitted, np.asarray([place])) for place in places]


def without_groups(fitted: Fitted, groups: Any) -> tuple[np.ndarray, list[Altered]]:
    """Names of the groups, and a training set without each."""
    names, members = read_groups(fitted, groups)
    return names, [without_points(fitted, member) for member in members]


def reweighted(fitted: Fitted, weights: Any) -> list[Altered]:
    """One training set a row of weights (k, n).

    Raises:
        ShapeError, NonFiniteInput: weights that do not fit the training set, or are not finite.
    """
    wanted = np.atleast_2d(np.asarray(weights, dtype=float))
    if wanted.shape[1] != fitted.objective.count:
        raise ShapeError(
            f"a refit found weights of shape {np.shape(weights)}. Expected (k, {fitted.objective.count}): a weight for every training point, in the unit of the study's weights."
        )
    if not np.isfinite(wanted).all():
        raise NonFiniteInput(
            f"a refit found weights that are not finite, in row {int(np.argwhere(~np.isfinite(wanted))[0, 0])}. Expected finite weights; correct it."
        )
    return [Altered(row) for row in torch.as_tensor(wanted, device=fitted.weights.device)]


def relabelled(fitted: Fitted, labels: Mapping[Any, Any]) -> tuple[np.ndarray, list[Altered]]:
    """Places of the points, and a training set in which each has its new label: the point leaves, its likeness comes.

    Raises:
        ConfigError: batches that are not (inputs, targets), in which a label has no place of its own.
    """
    places = fitted.positions(list(labels))
    found = []
    for place, label in zip(places, labels.values(), strict=True):
        batch = fitted.objective.examples.read(np.asarray([place]))
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)):
            raise ConfigError(
                f"a refit with another label found batches of type {type(batch).__name__}. Expected (inputs, targets); ask for replace() with the whole example."
            )
        target = fitted.adapted.codec.target(label, batch[1][0]).unsqueeze(0)
        likeness = Arrays((batch[0], target), fitted.objective.examples.ids[[place]])
        found.append(_exchanged(fitted, place, likeness))
    return places, found


def replaced(fitted: Fitted, places: np.ndarray, data: Any) -> list[Altered]:
    """A training set in which each point is another example.

    Raises:
        ShapeError: not one example a point.
    """
    examples = fitted.adapted.codec.read(data, "replacement")
    if len(examples) != len(places):
        raise ShapeError(
            f"a refit found {len(examples)} new examples for {len(places)} training points. Expected one for each; name as many points in which=."
        )
    return [_exchanged(fitted, place, Chosen(examples, np.asarray([k]))) for k, place in enumerate(places)]


def with_added(fitted: Fitted, data: Any) -> tuple[np.ndarray, list[Altered]]:
    """Ids of the new examples, and a training set with each, at the mean weight."""
    examples = fitted.adapted.codec.read(data, "added data")
    weight = fitted.weights.new_full((1,), fitted.objective.total_weight / fitted.objective.count)
    return examples.ids, [
        Altered(fitted.weights, Chosen(examples, np.asarray([k])), weight) for k in range(len(examples))
    ]


def without_points(fitted: Fitted, places: np.ndarray) -> Altered:
    """The training set less these points."""
    weights = fitted.weights.clone()
    weights[torch.as_tensor(places)] = 0.0
    return Altered(weights)


def _exchanged(fitted: Fitted, place: int | np.integer, likeness: Examples) -> Altered:
    leaving = without_points(fitted, np.asarray([place]))
    return replace(leaving, extra=likeness, added=fitted.weights[[int(place)]])


def as_trained(fitted: Fitted, altered: Sequence[Altered]) -> Float[np.ndarray, "k x"]:
    """Weights over the training set and all extra examples, for a training with a weight decay of its own.

    Under 'fixed_mean' each row is brought to the study's total weight, so that the decay keeps its share a point;
    under 'fixed_total' it is left as it is.
    """
    sizes = [0 if one.added is None else len(one.added) for one in altered]
    rows = np.zeros((len(altered), fitted.objective.count + sum(sizes)))
    start = fitted.objective.count
    for row, one, size in zip(rows, altered, sizes, strict=True):
        row[: fitted.objective.count] = one.weights.cpu().numpy()
        if one.added is not None:
            row[start : start + size] = one.added.cpu().numpy()
        start += size
        if fitted.protocol == "fixed_mean" and one.total > 0:
            row *= fitted.objective.total_weight / one.total
    return rows


def extra_of(altered: Sequence[Altered]) -> list[Examples]:
    """The extra examples of all changes, in the order of their weights."""
    return [one.extra for one in altered if one.extra is not None]


@dataclass(frozen=True)
class Joined(Examples):
    """Examples of several sets, one after another."""

    parts: tuple[Examples, ...]
    ids: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Examples]) -> Joined:
        """The parts, by position; their own ids may repeat."""
        return cls(tuple(parts), np.arange(sum(map(len, parts))))

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, where: slice | np.ndarray) -> Batch:
        positions = np.arange(len(self))[where]
        starts = np.cumsum([0, *map(len, self.parts)])
        owners = np.searchsorted(starts, positions, side="right") - 1
        order = np.argsort(owners, kind="stable")
        used = [part for part in range(len(self.parts)) if (owners == part).any()]
        batches = [self.parts[part].read(positions[owners == part] - starts[part]) for part in used]
        back = torch.as_tensor(np.argsort(order, kind="stable"))
        return map_tensors(_chained(batches), lambda tensor: tensor[back])


def _chained(batches: Sequence[Batch]) -> Batch:
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat([batch.to(first.dtype) for batch in batches])
    if isinstance(first, Mapping):
        return {key: _chained([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(_chained(column) for column in zip(*batches, strict=True))
    raise InputError(
        f"examples to be joined hold a {type(first).__name__}. Expected tensors in tuples, lists and dicts; convert them."
    )
