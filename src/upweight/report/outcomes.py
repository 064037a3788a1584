"""What the model says of points: label, prediction, the label to suggest, loss and confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.fitted import Fitted
from upweight.objective import Examples
from upweight.review.followed import class_labels


@dataclass(frozen=True)
class Outcomes:
    """Columns over some points; what does not exist for the model's loss is None.

    Attributes:
        levels: the classes; empty where targets are numbers or something else.
        given, predicted: class codes, or numbers where there are no classes.
        suggested: the most probable class other than the given one; the prediction where there are no classes.
        confidence: the probability of the given class.
    """

    ids: np.ndarray
    levels: list[Any]
    given: np.ndarray | None
    predicted: np.ndarray | None
    suggested: np.ndarray | None
    loss: np.ndarray
    confidence: np.ndarray | None

    @property
    def kind(self) -> str:
        """'class', 'number' or 'none': what a label is."""
        return "class" if self.levels else "none" if self.given is None else "number"

    def at(self, where: np.ndarray) -> Outcomes:
        """The same of some points only."""
        columns = (self.given, self.predicted, self.suggested, self.loss, self.confidence)
        given, predicted, suggested, loss, confidence = (None if c is None else c[where] for c in columns)
        assert loss is not None
        return Outcomes(self.ids[where], self.levels, given, predicted, suggested, loss, confidence)


def outcomes(fitted: Fitted, examples: Examples) -> Outcomes:
    """One forward pass over the training set, or over queries."""
    parts = [fitted.engine.outputs(batch, names=examples.ids[at]) for at, batch in fitted.engine.batches(examples)]
    outputs, targets = torch.cat([part[0] for part in parts]).double(), torch.cat([part[1] for part in parts])
    loss = fitted.objective.loss.values(outputs, targets).cpu().numpy()
    levels, flat = class_labels(fitted), targets.reshape(len(targets), -1)
    if levels and bool((flat[:, 0] == flat[:, 0].round()).all()):
        return _classified(examples, levels, outputs, flat[:, 0].long(), loss)
    if flat.shape[1] == 1 and outputs.shape[1] == 1:
        given, predicted = flat[:, 0].double().cpu().numpy(), outputs[:, 0].cpu().numpy()
        return Outcomes(examples.ids, [], given, predicted, predicted, loss, None)
    return Outcomes(examples.ids, [], None, None, None, loss, None)


def _classified(
    examples: Examples, levels: list[Any], outputs: Float[Tensor, "n o"], given: Tensor, loss: np.ndarray
) -> Outcomes:
    scores = torch.cat([-outputs / 2, outputs / 2], 1) if outputs.shape[1] == 1 else outputs
    probability = scores.softmax(1)
    others = scores.clone()
    others.scatter_(1, given[:, None], float("-inf"))
    return Outcomes(
        examples.ids,
        levels,
        given.cpu().numpy(),
        scores.argmax(1).cpu().numpy(),
        others.argmax(1).cpu().numpy(),
        loss,
        probability.gather(1, given[:, None])[:, 0].cpu().numpy(),
    )
