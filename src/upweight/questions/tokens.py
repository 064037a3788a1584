"""Effects cut along tokens: of a training sequence, or of a query.

    effect of i on q = −t_qᵀH⁻¹c_i,   c_i = −wᵢ Σ_t ∇ℓ_{i,t} − ρ∇r,   t_q = Σ_t J_{q,t}ᵀ ∂φ/∂η_t

Both sums are over positions, so each is cut there: one product of a Jacobian and a vector gives every position of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import jvp

from upweight._typing import Batch, Float, Tensor
from upweight.errors import ConfigError, ModelError
from upweight.fitted import Fitted
from upweight.gradients.guard import as_found
from upweight.gradients.vmap import plain_attention
from upweight.objective import Examples, Measure
from upweight.objective.data import Chosen
from upweight.questions.question import MeasureLike, Question

SIDES = ("train", "query")


@dataclass(frozen=True, repr=False)
class TokenEffects:
    """What each token of a training sequence, or of a query, contributes to an effect.

    Attributes:
        values: (m, k, t) the predicted change of each query's measurement if a training sequence is left out, cut along the
            positions of the training sequence ('train') or of the query ('query'); zero where a position has no label.
        rest: (m, k) what belongs to no token: the penalty's share; zero unless leaving a point out changes the penalty.
        of: 'train' or 'query'.
        query_ids, train_ids: names of the first two axes.
        measure, unit: what was measured and in what unit.
    """

    values: np.ndarray
    rest: np.ndarray
    of: str
    query_ids: np.ndarray
    train_ids: np.ndarray
    measure: str
    unit: str

    @property
    def total(self) -> np.ndarray:
        """(m, k): the effects themselves, to first order."""
        return self.values.sum(2) + self.rest

    def to_pandas(self) -> Any:
        """A tidy frame: query, train, position, effect; positions without any effect are left out."""
        import pandas as pd

        q, i, t = np.nonzero(self.values)
        return pd.DataFrame(
            {"query": self.query_ids[q], "train": self.train_ids[i], "position": t, "effect": self.values[q, i, t]}
        )

    def __repr__(self) -> str:
        m, k, t = self.values.shape
        whose = "training sequence" if self.of == "train" else "query"
        return f"TokenEffects ({m} × {k} × {t}): the predicted change in {self.measure} ({self.unit}) if each of {k} training sequences is left out, cut along the {t} positions of the {whose}; first order."


def token_effects(fitted: Fitted, query: Any, which: Any, of: str, measure: MeasureLike) -> TokenEffects:
    """Cut the effects of some sequences on some queries along positions: see ``Study.token_effects``."""
    if of not in SIDES:
        raise ConfigError(f"of={of!r} is unknown. Expected 'train' or 'query': whose tokens.")
    if fitted.objective.loss.kind != "tokens":
        raise ConfigError(
            f"token_effects found loss={fitted.objective.loss.name!r}, which has one label an example. Expected loss='token_cross_entropy'; ask drop() for whole examples."
        )
    question = Question(fitted, query, measure, "first")
    measured = question.measured
    if measured is None or not isinstance(measured.measure, Measure) or len(measured.ids) != len(measured.outputs):
        raise ConfigError(f"token_effects found measure={measure!r}. Expected one number a query, such as 'loss'.")
    places = fitted.positions(which)
    chosen = Chosen(fitted.objective.examples, places)
    rows = _solved(fitted, measured.rows(), len(measured.outputs))  # (m, p)
    cut = _train if of == "train" else _query
    values = cut(fitted, question, chosen, rows)
    weights = fitted.weights[places]
    rest = torch.outer(rows.double() @ fitted.penalty_gradient, fitted.shares(weights))
    names = fitted.objective.examples.ids[places]
    unit = measured.unit
    return TokenEffects(values.cpu().numpy(), rest.cpu().numpy(), of, measured.ids, names, measured.name, unit)


def _solved(fitted: Fitted, rows: Float[Tensor, "m p"], count: int) -> Float[Tensor, "m p"]:
    if fitted.structured:
        dtype = torch.promote_types(fitted.objective.theta.dtype, torch.float32)
        return rows.to(dtype) @ fitted.blocked.inverse.operator
    found = fitted.row_inverse(count).solve(rows)
    found.verdict.warn()
    return found.rows


def _train(fitted: Fitted, question: Question, chosen: Chosen, rows: Float[Tensor, "m p"]) -> Float[Tensor, "m k t"]:
    """w ∂ℓ_{i,t}/∂η · J_{i,t} H⁻¹t_q: one product a query and tile of training sequences."""
    loss, weights, found = fitted.objective.loss, fitted.weights[chosen.places], []
    for where, batch in fitted.engine.batches(chosen):
        outputs, targets = fitted.engine.outputs(batch, names=chosen.ids[where])
        slopes = loss.gradient(outputs.double(), targets)
        shifts = [_along(fitted, batch, row) for row in rows]
        cut = torch.stack([_by_position(slopes, shift, targets) for shift in shifts])  # (m, b, t)
        found.append(cut * weights[where, None])
    return torch.cat(found, 1)


def _query(fitted: Fitted, question: Question, chosen: Chosen, rows: Float[Tensor, "m p"]) -> Float[Tensor, "m k t"]:
    """∂φ/∂η_t · J_{q,t} H⁻¹(w∇ℓ_i + ρ∇r): one product a training sequence and tile of queries."""
    measured = question.measured
    assert measured is not None and isinstance(measured.measure, Measure)
    slopes = measured.measure.gradient(measured.outputs.double(), measured.targets)[:, 0]
    examples: Examples = fitted.adapted.codec.read(question.query, "query")
    found: list[Tensor] = []
    for change in _moves(fitted, chosen):
        parts = [(where, _along(fitted, batch, change)) for where, batch in fitted.engine.batches(examples)]
        cut = [_by_position(slopes[where], shift, measured.targets[where]) for where, shift in parts]
        found.append(torch.cat(cut))  # (m, t)
    return torch.stack(found, 1)


def _moves(fitted: Fitted, chosen: Chosen) -> Iterator[Float[Tensor, "p"]]:
    """H⁻¹w∇ℓ_i, one training sequence after another."""
    weights = fitted.weights[chosen.places]
    for where, batch in fitted.engine.batches(chosen):
        rows = fitted.engine.gradients(batch).dense().double() * weights[where, None]
        yield from _solved(fitted, rows, len(rows))


def _along(fitted: Fitted, batch: Batch, direction: Float[Tensor, "p"]) -> Float[Tensor, "b o"]:
    """Jv: how the outputs of a batch move with θ along a direction, by forward-mode differentiation."""
    theta = fitted.objective.theta
    dtype = torch.promote_types(theta.dtype, torch.float32)
    function = fitted.engine.function_of(batch, dtype)
    length = direction.norm()
    if not float(length) > 0:
        return function(theta.to(dtype)).double() * 0
    try:
        with plain_attention(), as_found(fitted.objective.model):
            moved = jvp(function, (theta.to(dtype),), ((direction / length).to(dtype),))[1]
    except (RuntimeError, NotImplementedError) as reason:
        raise ModelError(
            f"token_effects could not differentiate the model forward: {str(reason).splitlines()[0]}. Expected operations with a forward derivative; load the model with attn_implementation='eager'."
        ) from reason
    return moved.double() * length.double()


def _by_position(slopes: Float[Tensor, "b o"], shifts: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b t"]:
    """Σ over classes of slope · shift, position by position."""
    return (slopes * shifts).view(*targets.shape, -1).sum(2)
