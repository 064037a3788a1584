"""What a small change of a training input does to a query: I_pert,loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upweight.errors import ConfigError
from upweight.objective.data import Chosen
from upweight.questions.question import Question


@dataclass(frozen=True, repr=False)
class InputGradient:
    """The gradient of each query's measurement with respect to training inputs, refitting included.

    Attributes:
        values: (m, k, *input): change of the measurement per unit change of an input; wᵢ is included.
        query_ids, train_ids: names of the first two axes.
        measure, unit, verdict, notes: as in Effects.
    """

    values: np.ndarray
    query_ids: np.ndarray
    train_ids: np.ndarray
    measure: str
    unit: str
    verdict: str
    notes: tuple[str, ...] = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def __repr__(self) -> str:
        return (
            f"InputGradient {self.values.shape}: the change in {self.measure} ({self.unit}) of each of {len(self.query_ids)} measurements, for the "
            f"inputs of {len(self.train_ids)} training points; {self.verdict}.{''.join(f' {note}.' for note in self.notes)}"
        )


def perturb(question: Question, which: Any) -> InputGradient:
    """−wᵢ ∂/∂xᵢ ⟨H⁻¹∇φ, ∇ℓᵢ⟩: one vector-Jacobian product a query and point [KL17 eq. 5]."""
    fitted, measured = question.fitted, question.measured
    if measured is None or measured.over_set:
        raise ConfigError(
            f"perturb found measure={question.measure!r}. Expected a differentiable measure of each query, such as 'loss' or 'margin'."
        )
    places = fitted.positions(which)
    rows = measured.rows()
    solution = fitted.row_inverse(len(rows)).solve(rows)
    solution.verdict.warn()
    part = Chosen(fitted.objective.examples, places)
    found = []
    for start in range(0, len(part), TILE):
        batch = fitted.objective.moved(part.read(slice(start, start + TILE)))
        weights = fitted.weights[places[start : start + TILE]]
        slope = fitted.engine.input_gradient(batch, solution.rows).double()  # (b, m, ...)
        found.append(-slope * weights.reshape(-1, *[1] * (slope.ndim - 1)))
    fitted.stationarity.warn()
    values = torch.cat(found).transpose(0, 1).cpu().numpy()
    inputs = "transformed input" if "Transformers held fixed" in fitted.adapted.notes else "input"
    unit = f"{measured.unit} per unit of {inputs}"
    return InputGradient(
        values, measured.ids, part.ids, measured.name, unit, str(solution.verdict), fitted.adapted.notes
    )


TILE = 16
"""Training points differentiated at a time; each holds a double backward pass a query."""
