"""Decisions taken to a fitted model: which points leave, which come again with another label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from upweight._typing import Batch, Float, Tensor
from upweight.errors import ConfigError, DecisionError, LabelError, plain
from upweight.fitted import Fitted, prepare
from upweight.objective import Examples
from upweight.review.decisions import Decision, Decisions
from upweight.store.fingerprints import digest_bytes

WRITTEN = 1e-5
"""Relative error of a number that a page wrote in six digits."""


@dataclass(frozen=True)
class Followed:
    """The study with a relabelled copy of every point that is to be relabelled, and the weights that follow decisions.

    Leaving out and relabelling together are then one reweighting: Q′ = Σ w′ᵢℓᵢ + r′ over the points and the copies,
    where w′ is zero on what was dropped, and moves from the point to its copy where it was relabelled.
    """

    fitted: Fitted
    weights: Float[Tensor, "n"]
    dropped: np.ndarray
    relabelled: np.ndarray
    labels: tuple[Any, ...]
    """The new label of each relabelled point, as it was decided."""


def follow(fitted: Fitted, decisions: Decisions) -> Followed:
    """Take decisions to the study they were made about.

    Raises:
        DecisionError: made about other data, about a point that does not exist, or about two points of one name.
        LabelError: an unknown label.
    """
    _same_study(fitted, decisions)
    names = _places(fitted)
    placed = [(_place(fitted, item, names), item) for item in decisions]
    _require_given(fitted, placed)
    dropped = np.asarray([place for place, item in placed if item.action == "drop"], dtype=int)
    moved = [(place, item.label) for place, item in placed if item.action == "relabel"]
    relabelled = np.asarray([place for place, _ in moved], dtype=int)
    extended = with_copies(fitted, relabelled, [label for _, label in moved]) if moved else fitted
    weights = extended.weights.clone()
    weights[fitted.objective.count :] = weights[relabelled]
    weights[relabelled] = 0.0
    weights[dropped] = 0.0
    return Followed(extended, weights, dropped, relabelled, tuple(label for _, label in moved))


def with_copies(fitted: Fitted, places: np.ndarray, labels: Sequence[Any]) -> Fitted:
    """The same fitted model with copies of some points under other labels, of weight zero: Q is unchanged."""
    objective = fitted.objective
    batch = objective.examples.read(places)
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)):
        raise ConfigError(
            "relabel decisions found training data that are not (inputs, targets) pairs. Expected such pairs; drop the points instead, or relabel them and fit again."
        )
    targets = torch.stack([read_label(fitted, label, like) for label, like in zip(labels, batch[1], strict=True)])
    copies = Copies(objective.examples, places, targets)
    none = objective.weights.new_zeros(len(places))
    extended = replace(objective, examples=copies, weights=torch.cat([objective.weights, none]))
    return prepare(replace(fitted.adapted, objective=extended, was_training=False), fitted.settings)


def read_label(fitted: Fitted, label: Any, like: Tensor) -> Tensor:
    """A label as a target; one that a file wrote as text is read as the label it spells."""
    codec = fitted.adapted.codec
    if isinstance(label, str):
        label = label_of(fitted, label)
    try:
        return codec.target(label, like)
    except LabelError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise LabelError(
            f"found the new label {label!r}. Expected a label like those of the training set; correct the decision."
        ) from error


def label_of(fitted: Fitted, text: str) -> Any:
    """The label that a text spells: one of the classes, or a number."""
    known = {spelled(label): label for label in class_labels(fitted)}
    if spelled(text) in known:
        return known[spelled(text)]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def class_labels(fitted: Fitted) -> list[Any]:
    """The classes in the user's terms, in the order of the outputs; empty where there are none."""
    kind, outputs = fitted.objective.loss.kind, fitted.objective.outputs
    if kind == "class" or (kind == "binary" and outputs == 1):
        return [plain(fitted.adapted.codec.label(k)) for k in range(outputs if kind == "class" else 2)]
    return []


def given_labels(fitted: Fitted) -> list[str] | None:
    """The label of every training point as text, as the page and its exports write it; None for other targets."""
    classes = [spelled(label) for label in class_labels(fitted)]
    targets = torch.cat([fitted.engine.outputs(batch)[1].cpu() for _, batch in fitted.engine.batches()])
    flat = targets.reshape(len(targets), -1)
    if flat.shape[1] != 1:
        return None
    values = flat[:, 0]
    if classes and bool((values == values.round()).all()):
        return [classes[int(value)] for value in values.tolist()]
    return [f"{float(value):.6g}" for value in values.tolist()]


def spelled(value: Any) -> str:
    """A name as a browser spells it: halves of a character that belong together joined, others replaced."""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def training_set_fingerprint(fitted: Fitted) -> str:
    """What tells one training set from another: its size, names and labels, as 16 hexadecimal digits."""
    texts = (*map(spelled, fitted.objective.examples.ids.tolist()), *(given_labels(fitted) or ()))
    return digest_bytes([str(fitted.objective.count).encode(), *(text.encode() + b"\0" for text in texts)])[:16]


@dataclass(frozen=True)
class Copies(Examples):
    """Examples, and after them copies of some under other targets."""

    source: Examples
    places: np.ndarray
    targets: Tensor

    @property
    def ids(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        names = np.empty(len(self), dtype=object)
        old = self.source.ids.tolist()
        names[:] = [*old, *(("relabelled", old[place]) for place in self.places.tolist())]
        return names

    def __len__(self) -> int:
        return len(self.source) + len(self.places)

    def read(self, where: slice | np.ndarray) -> Batch:
        count = len(self.source)
        wanted = np.arange(len(self))[where]
        copied = wanted >= count
        origin = wanted.copy()
        origin[copied] = self.places[wanted[copied] - count]
        inputs, targets = self.source.read(origin)
        targets = targets.clone()
        targets[torch.as_tensor(copied)] = self.targets[torch.as_tensor(wanted[copied] - count)].to(targets)
        return inputs, targets


def _same_study(fitted: Fitted, decisions: Decisions) -> None:
    if decisions.fingerprint is None:
        return
    found = training_set_fingerprint(fitted)
    if found != decisions.fingerprint:
        raise DecisionError(
            f"the decisions are about training set {decisions.fingerprint}, this one is {found}. Expected the same points with the same labels; take the study that the report was written from."
        )


def _places(fitted: Fitted) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(fitted.objective.examples.ids.tolist()):
        places.setdefault(spelled(name), []).append(place)
    return places


def _place(fitted: Fitted, item: Decision, names: dict[str, list[int]]) -> int:
    found = names.get(spelled(item.train), [])
    if item.position is not None and item.position in found:
        return item.position
    if item.position is not None and found:
        raise DecisionError(
            f"point {item.train!r} is at position {found[0]}, not at {item.position} as when it was decided about. Expected the same training set in the same order."
        )
    if len(found) != 1:
        raise DecisionError(
            f"{'no training point is' if not found else f'{len(found)} training points are'} called {item.train!r}. Expected decisions about this study's {fitted.objective.count:,} points; check that they belong together."
        )
    return found[0]


def _require_given(fitted: Fitted, placed: list[tuple[int, Decision]]) -> None:
    """Labels must be what they were when they were decided about."""
    if len({place for place, _ in placed}) != len(placed):
        raise DecisionError("a point is decided about twice. Expected one decision a point; remove one.")
    labels = given_labels(fitted) if any(item.given is not None for _, item in placed) else None
    for place, item in placed if labels else ():
        assert labels is not None
        if item.given is not None and not _same_label(spelled(item.given), labels[place]):
            raise DecisionError(
                f"point {item.train!r} is labelled {labels[place]!r}, but was {item.given!r} when it was decided about. Expected the same data; take the study that the report was written from."
            )


def _same_label(written: str, found: str) -> bool:
    """The same text, or the same number to the digits that a page writes."""
    try:
        return written == found or math.isclose(float(written), float(found), rel_tol=WRITTEN, abs_tol=WRITTEN**2)
    except ValueError:
        return False
