"""The tail-patch score: what one real training step on a point does to a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.gradients import engine_for
from upweight.objective import Measure, Objective, read_examples, read_measure
from upweight.objective.data import Chosen


def values(
    objective: Objective, data: Any = None, measure: str = "loss", theta: Float[Tensor, "p"] | None = None
) -> Float[Tensor, "m"]:
    """A measure of the training set or of other data, at θ̂ or at another θ."""
    engine = engine_for(objective)
    examples = objective.examples if data is None else read_examples(data, objective.theta.dtype)
    read = read_measure(measure, objective.loss, objective.trailing)
    assert isinstance(read, Measure)
    found = [read.values(*engine.outputs(batch, theta))[:, 0] for _, batch in engine.batches(examples)]
    return torch.cat(found).detach()


def tail_patch(
    objective: Objective, query: Any, which: Sequence[int], rate: float, measure: str = "probability"
) -> Float[Tensor, "m k"]:
    """φ_q(θ̂ − η∇ℓᵢ(θ̂)) − φ_q(θ̂): what a score is judged by where retraining is out of reach (Chang et al. 2024).

    Args:
        which: training points, by position: those a method puts first.
        rate: η, that of the training run.
        measure: 'probability' of the target, 'loss', 'margin' or another measure of each query.

    Returns:
        (m, k), in the measure's unit; positive means that the step on the point raised it.

    Error and cost:
        Exact. A gradient, and a forward pass of all queries, a point.
    """
    before, changes = values(objective, query, measure), []
    for place in which:
        one = Chosen(objective.examples, np.asarray([place]))
        step = engine_for(objective).gradient(objective.weights.new_ones(1), examples=one)
        changes.append(values(objective, query, measure, objective.theta - rate * step.to(objective.theta)) - before)
    return torch.stack(changes, 1)
