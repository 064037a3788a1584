"""What following decisions would do to the loss of a validation set: predicted, and really refitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError
from upweight.evaluate.refit import refit
from upweight.evaluate.states import measured_at
from upweight.fitted import Fitted
from upweight.questions import whole
from upweight.questions.question import Question
from upweight.review.decisions import read_decisions
from upweight.review.followed import Followed, class_labels, follow

MIXED = "The loss rose though more are right: a surer model loses more where the queries' own labels are wrong, so look at those of the highest loss."


@dataclass(frozen=True, repr=False)
class WhatIf:
    """The mean loss of a validation set as fitted, and by how much it changes if decisions are followed.

    Attributes:
        dropped, relabelled, kept: how many points are.
        queries: how many points the loss is the mean over.
        loss: their mean loss as fitted.
        predicted: its predicted change, from the fitted model alone; negative is a lower loss.
        refitted: its change after really refitting, None where that was not asked for or not possible.
        accuracy, accuracy_refitted: share of queries classified rightly, None where there are no classes or no refit.
        order: how the prediction was made: 'two_newton', 'newton' or 'first'.
    """

    dropped: int
    relabelled: int
    kept: int
    queries: int
    loss: float
    predicted: float
    refitted: float | None
    accuracy: float | None
    accuracy_refitted: float | None
    order: str

    def __repr__(self) -> str:
        count = self.dropped + self.relabelled + self.kept
        if not self.dropped + self.relabelled:
            return f"Nothing to follow: none of the {count} decisions drops or relabels a point. The mean loss of {self.queries:,} queries is {self.loss:.4g}."
        words = [
            f"If you follow these {count:,} decisions ({self.relabelled:,} relabelled, {self.dropped:,} dropped, {self.kept:,} kept), the mean loss of {self.queries:,} queries, {self.loss:.4g} now, is predicted to {_moves(self.predicted)}."
        ]
        if self.refitted is not None:
            words.append(f"Really refitted: it {_moves(self.refitted, done=True)}.")
        if self.accuracy is not None and self.accuracy_refitted is not None:
            words.append(f"Accuracy {self.accuracy:.1%} as fitted, {self.accuracy_refitted:.1%} refitted.")
            if (self.refitted or 0.0) > 0 and self.accuracy_refitted > self.accuracy:
                words.append(MIXED)
        return " ".join(words)


def what_if(fitted: Fitted, decisions: Any, query: Any, refits: bool | None = None, order: str = "auto") -> WhatIf:
    """Predict, by Newton steps on the objective that the decisions leave, and refit where that is affordable."""
    read = read_decisions(decisions)
    followed = follow(fitted, read)
    possible = can_refit(fitted)
    if refits and not possible:
        raise ConfigError(
            "what_if(refit=True) found a model too large to refit by Newton's method. Expected refit=None or False; to confirm it, train your own model on the data that `upweight apply` writes."
        )
    asked = Question(followed.fitted, query, "loss", order, "mean")
    again = refits is not False and possible
    before, after, moved, order = _changes(asked, followed, again)
    return WhatIf(
        dropped=len(followed.dropped),
        relabelled=len(followed.relabelled),
        kept=read.count("keep"),
        queries=_count(asked),
        loss=float(measured_at(asked, before)[0]),
        predicted=moved,
        refitted=None if after is None else float((measured_at(asked, after) - measured_at(asked, before))[0]),
        accuracy=_accuracy(followed.fitted, query, before),
        accuracy_refitted=None if after is None else _accuracy(followed.fitted, query, after),
        order=order,
    )


def can_refit(fitted: Fitted) -> bool:
    """Whether Newton's method refits the model in seconds: linear models that fit the memory, and small networks."""
    return fitted.exact.fits and (fitted.linear or fitted.small)


def _changes(
    asked: Question, followed: Followed, again: bool
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p"] | None, float, str]:
    """θ̂, θ refitted, the predicted change and its order."""
    theta = followed.fitted.objective.theta.double()
    if not len(followed.dropped) + len(followed.relabelled):
        return theta, theta if again else None, 0.0, "none"
    found = whole.reweight(asked, followed.weights.cpu().numpy()[None])
    after = None
    if again:
        before = refit(followed.fitted, followed.fitted.weights)  # θ̂ to rounding, so that a loose fit is not counted
        theta, after = before, refit(followed.fitted, followed.weights)
    return theta, after, float(found.values[0, 0]), found.order


def _count(asked: Question) -> int:
    measured = asked.measured
    assert measured is not None
    return len(measured.outputs)


def _accuracy(fitted: Fitted, query: Any, theta: Float[Tensor, "p"]) -> float | None:
    if not class_labels(fitted):
        return None
    examples, right = fitted.adapted.codec.read(query, "query"), []
    for _, batch in fitted.engine.batches(examples):
        outputs, targets = fitted.engine.outputs(batch, theta)
        chosen = fitted.objective.loss.predicted(outputs)
        right.append(chosen == targets.reshape(len(targets), -1)[:, 0].long())
    return float(torch.cat(right).double().mean())


def _moves(change: float, done: bool = False) -> str:
    fell, rose = ("fell", "rose") if done else ("fall", "rise")
    return f"{fell if change < 0 else rose} by {abs(change):.3g}"
