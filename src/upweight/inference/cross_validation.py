"""Every training point predicted by a model that has not seen it, without refitting: approximate leave-one-out.

    η₋ᵢ = ηᵢ + Jᵢδᵢ,   Jᵢδᵢ = −(Aᵢuᵢ + ρᵢ JᵢP∇r),   Aᵢ = JᵢPJᵢᵀ

with the leverage-corrected push uᵢ of ``influence.changes``: exact for least squares and ridge, one Newton step
elsewhere [RM20]. Whole groups are left out by ``drop_group``'s steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, NonFiniteGradient, plain
from upweight.fitted import Fitted
from upweight.influence.changes import corrected
from upweight.objective.data import Chosen
from upweight.questions import whole
from upweight.questions.question import Question
from upweight.questions.terms import Tile, point_tiles

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class CrossValidation:
    """Each training point as a model without it, or without its group, predicts it.

    Attributes:
        ids: (n,) the points.
        losses: (n,) each point's loss on the model that has not seen it.
        in_sample: (n,) the same on the model that has.
        outputs: (n, o) η₋ᵢ.
        predictions: (n, c) E[y | η₋ᵢ], one column a class for classes; None where the loss is no likelihood.
        classes: (K,) what the columns of ``probabilities`` are; None if outcomes are no classes.
        weights: (n,) the study's weights, which means are taken with.
        unit: of the losses.
        how: how the models without a point were come by, in words.
    """

    ids: np.ndarray
    losses: np.ndarray
    in_sample: np.ndarray
    outputs: np.ndarray
    predictions: np.ndarray | None
    classes: np.ndarray | None
    weights: np.ndarray
    unit: str
    how: str

    @property
    def loss(self) -> float:
        """The mean loss out of sample: what cross-validation estimates."""
        return float(np.average(self.losses, weights=self.weights))

    @property
    def training_loss(self) -> float:
        """The mean loss in sample."""
        return float(np.average(self.in_sample, weights=self.weights))

    @property
    def optimism(self) -> float:
        """By how much the training loss is too good."""
        return self.loss - self.training_loss

    @property
    def probabilities(self) -> np.ndarray:
        """(n, K): each class's probability for every point, out of sample, as cleanlab's ``pred_probs`` takes it.

        Raises:
            ConfigError: outcomes that are no classes.
        """
        if self.classes is None or self.predictions is None:
            raise ConfigError(
                "probabilities found a model whose outcomes are no classes. Expected a classifier with probabilities, such as LogisticRegression or Logit; .predictions are what there is."
            )
        p = self.predictions
        return np.column_stack([1 - p, p]) if p.shape[1] == 1 else p

    def to_pandas(self) -> pd.DataFrame:
        """One row a point: its losses out of and in sample, and its predictions out of sample."""
        import pandas as pd

        frame = pd.DataFrame({"loss": self.losses, "in_sample": self.in_sample}, index=pd.Index(self.ids, name="train"))
        if self.classes is not None:
            for name, column in zip(self.classes.tolist(), self.probabilities.T, strict=True):
                frame[f"p({name})"] = column
        elif self.predictions is not None and self.predictions.shape[1] == 1:
            frame["prediction"] = self.predictions[:, 0]
        return frame

    def __repr__(self) -> str:
        return (
            f"CrossValidation of {len(self.ids):,} points: mean loss {self.loss:.5g} out of sample ({self.unit}), {self.training_loss:.5g} in sample, "
            f"so that {self.optimism:.3g} of it is optimism. {self.how}."
        )


def cross_validation(fitted: Fitted, groups: Any = None, order: str = "auto") -> CrossValidation:
    """Predict every point without it, or every group without it."""
    fitted.stationarity.warn()
    question = Question(fitted, None, "parameters", order)
    shifts, how = _single(question) if groups is None else _grouped(question, groups)
    loss, parts = fitted.objective.loss, [fitted.engine.outputs(batch) for _, batch in fitted.engine.batches()]
    outputs, targets = torch.cat([eta for eta, _ in parts]).double(), torch.cat([y for _, y in parts])
    targets = targets.double() if targets.is_floating_point() else targets
    moved = outputs + shifts
    predictions, losses = loss.mean(moved), loss.judged(moved, targets).cpu().numpy()
    _require_finite(losses, fitted)
    return CrossValidation(
        ids=fitted.objective.examples.ids,
        losses=losses,
        in_sample=loss.judged(outputs, targets).cpu().numpy(),
        outputs=moved.cpu().numpy(),
        predictions=None if predictions is None else predictions.cpu().numpy(),
        classes=_classes(fitted, targets),
        weights=fitted.weights.cpu().numpy(),
        unit=loss.unit,
        how=how,
    )


def _single(question: Question) -> tuple[Float[Tensor, "n o"], str]:
    """Jᵢδᵢ of every point."""
    fitted, order = question.fitted, question.best_order
    shifts = torch.zeros(fitted.objective.count, fitted.objective.outputs, dtype=torch.float64)
    refused = 0
    for tile in point_tiles(fitted, np.arange(fitted.objective.count), -fitted.weights):
        shift, stayed = _shift(fitted, tile, order)
        shifts[tile.columns], refused = shift.cpu(), refused + stayed
    exact = "Each point is left out by one leverage-corrected Newton step"
    how = exact if order == "newton" else "Each point is left out to first order"
    stayed = f"; {refused} of leverage 1 stay at first order, since what remains does not determine the parameters"
    return shifts.to(fitted.weights.device), f"{how}, {fitted.own_verdict}{stayed if refused else ''}"


def _shift(fitted: Fitted, tile: Tile, order: str) -> tuple[Float[Tensor, "b o"], int]:
    changes, pull, push, refused = tile.changes, fitted.penalty_gradient, tile.changes.push, 0
    inverse = fitted.own_inverse(changes.share if order == "newton" else 0.0)
    if order == "newton":
        correction = corrected(changes, inverse, pull if changes.share else None)
        push, refused = correction.push, int(correction.refused.sum())
    own = changes.jacobian.sandwich(inverse).to(push.dtype)
    shift = -(own @ push.unsqueeze(2)).squeeze(2)
    if changes.share:
        shift = shift - changes.share * changes.jacobian.jvp((pull @ inverse.T).unsqueeze(0)).squeeze(2)
    return shift.double(), refused


def _grouped(question: Question, groups: Any) -> tuple[Float[Tensor, "n o"], str]:
    """The outputs of every group's members at the θ reached without the group, less those at θ̂."""
    fitted = question.fitted
    _, members = whole.read_groups(fitted, groups)
    counted = np.bincount(np.concatenate(members), minlength=fitted.objective.count)
    if not (counted == 1).all():
        name = plain(fitted.objective.examples.ids[int(np.argmax(counted != 1))])
        raise ConfigError(
            f"cross_validation found training point {name!r} in {int(counted[counted != 1][0])} groups. Expected every point in exactly one; pass one label a point."
        )
    moves = whole.drop_group(question, groups)
    shifts = torch.zeros(fitted.objective.count, fitted.objective.outputs, dtype=torch.float64)
    theta = fitted.objective.theta.double()
    for move, places in zip(torch.as_tensor(moves.values.T), members, strict=True):
        part = Chosen(fitted.objective.examples, places)
        pairs = [
            (fitted.engine.outputs(batch, theta + move.to(theta))[0], fitted.engine.outputs(batch)[0])
            for _, batch in fitted.engine.batches(part)
        ]
        shifts[places] = torch.cat([after.double() - before.double() for after, before in pairs]).cpu()
    return shifts.to(
        fitted.weights.device
    ), f"Each of {len(members)} groups is left out, order {moves.order!r}, {moves.verdict}"


def _classes(fitted: Fitted, targets: Tensor) -> np.ndarray | None:
    """The classes in the user's terms, in the order of the columns."""
    loss = fitted.objective.loss
    single = fitted.objective.outputs == 1 and loss.kind in ("binary", "proportion")
    if single and bool(((targets == 0) | (targets == 1)).all()):
        count = 2
    elif loss.kind == "class":
        count = fitted.objective.outputs
    else:
        return None
    names = [fitted.adapted.codec.label(place) for place in range(count)]
    found = np.empty(count, dtype=object)
    found[:] = [plain(name) for name in names]
    return found


def _require_finite(losses: np.ndarray, fitted: Fitted) -> None:
    if not np.isfinite(losses).all():
        name = plain(fitted.objective.examples.ids[int(np.argmin(np.isfinite(losses)))])
        raise NonFiniteGradient(
            f"training point {name!r} has a loss of {losses[~np.isfinite(losses)][0]} once it is left out. Expected finite losses; its outputs leave the range of the link, so refit without it."
        )
