"""Next-token losses of sequences: one class label a position, some of them left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from upweight._typing import Float, Int, Tensor
from upweight.errors import BudgetError, LabelError, ShapeError
from upweight.objective.draws import Draws
from upweight.objective.loss import Loss

IGNORED = -100
"""The target of a position without a label, as everywhere in PyTorch."""

LARGEST = 2048
"""Outputs of a sequence up to which its output Hessian is written out."""


@dataclass(frozen=True)
class TokenCrossEntropy(Loss):
    """Σ_t [log Σ exp η_t − η_{t,y_t}] over the labelled positions of a sequence.

    Outputs are (b, positions, classes), targets (b, positions) with −100 where a position has no label. A sum,
    not a mean: a longer sequence says more. Positions are independent given the outputs, so Λ has a block each.
    """

    classes: int = 0
    name = "token_cross_entropy"
    unit = "nats"
    kind = "tokens"

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        flat = outputs.reshape(-1, self.classes)
        losses = F.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORED, reduction="none")
        return losses.view(targets.shape).sum(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._slopes(self._probabilities(outputs, targets), targets)

    def sampled(self, outputs: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        """One label a labelled position, by inverting the distribution function at a uniform number."""
        p = self._probabilities(outputs, targets)
        chance = draws.uniform(targets.shape[1]).to(p)
        labels = torch.searchsorted(p.cumsum(2), chance.unsqueeze(2)).squeeze(2)
        labels = labels.clamp_max(self.classes - 1)
        return self._slopes(p, torch.where(targets == IGNORED, IGNORED, labels))

    def hessian(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape[1] > LARGEST:
            raise BudgetError(
                f"{self.name} found {outputs.shape[1]:,} outputs a sequence, whose output Hessian would be that many squared. Expected at most {LARGEST:,}; "
                "use order='first', a structured curvature with fisher='sampled', or curvature='ggn' with an iterative solver."
            )
        p = self._probabilities(outputs, targets)
        blocks = torch.diag_embed(p) - p.unsqueeze(3) * p.unsqueeze(2)  # (b, t, v, v)
        return torch.stack([torch.block_diag(*positions) for positions in blocks])

    def hessian_times(self, outputs: Tensor, targets: Tensor, shifts: Tensor) -> Tensor:
        """p∘u − p(p·u), position by position."""
        p = self._probabilities(outputs, targets).to(shifts.dtype).unsqueeze(3)  # (b, t, v, 1)
        u = shifts.view(*targets.shape, self.classes, -1)
        return (p * (u - (p * u).sum(2, keepdim=True))).view(shifts.shape)

    def bound(self, trailing: tuple[int, ...]) -> Loss:
        return replace(self, classes=trailing[-1])

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        if outputs.ndim != 3 or outputs.shape[2] < 2:
            raise ShapeError(
                f"token_cross_entropy found outputs of shape {tuple(outputs.shape)}. Expected (b, positions, classes) with at least 2 classes; for one label an example use loss='cross_entropy'."
            )
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise LabelError(
                f"token_cross_entropy found targets of type {targets.dtype}. Expected integer class labels, {IGNORED} where there is none; use targets.long()."
            )
        if targets.shape != outputs.shape[:2]:
            raise ShapeError(
                f"token_cross_entropy found targets of shape {tuple(targets.shape)} against outputs {tuple(outputs.shape)}. Expected {tuple(outputs.shape[:2])}: one label a position, {IGNORED} where there is none."
            )
        wrong = ((targets < 0) & (targets != IGNORED)) | (targets >= outputs.shape[2])
        if bool(wrong.any()):
            row, position = wrong.nonzero()[0].tolist()
            name = names[row] if len(names) else f"{row} of the batch"
            raise LabelError(
                f"example {name} has label {int(targets[row, position])} at position {position}. Expected 0 to {outputs.shape[2] - 1}, or {IGNORED} for none; recode the labels."
            )
        return outputs.flatten(1), targets.long()

    def require_labels(self, targets: Tensor, names: Sequence[Any] | np.ndarray) -> None:
        empty = (targets == IGNORED).all(1)
        if bool(empty.any()):
            raise LabelError(
                f"query {list(names)[int(empty.nonzero()[0])]} has no label at any of its {targets.shape[1]} positions ({int(empty.sum())} of {len(targets)} queries have none). Expected at least one label other than {IGNORED}; leave such queries out."
            )

    def _probabilities(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "b t v"]:
        """The model's distribution at every position; zero where there is no label."""
        p = torch.softmax(outputs.reshape(*targets.shape, self.classes), 2)
        missing = targets == IGNORED
        return p.masked_fill_(missing.unsqueeze(2), 0.0) if bool(missing.any()) else p

    def _slopes(self, p: Float[Tensor, "b t v"], labels: Int[Tensor, "b t"]) -> Float[Tensor, "b o"]:
        """p − 1_y at labelled positions, in place."""
        hit = (labels != IGNORED).to(p.dtype).neg().unsqueeze(2)
        return p.scatter_add_(2, labels.clamp_min(0).unsqueeze(2), hit).flatten(1)
