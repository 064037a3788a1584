"""Losses of the margin yη, y = ±1: what support vector machines minimise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from upweight._typing import Tensor
from upweight.objective.elementwise import Elementwise


class SignLoss(Elementwise):
    """A loss of yη summed over outputs, y given as −1 and 1 or as 0 and 1."""

    kind = "sign"

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        outputs, targets = super().prepare(outputs, targets, names)
        self._refuse(targets, (targets != 0) & (targets.abs() != 1), "labels -1 and 1, or 0 and 1", names)
        return outputs, torch.where(targets > 0, 1.0, -1.0).to(outputs.dtype)


@dataclass(frozen=True)
class SmoothHinge(SignLoss):
    """t·log(1 + exp((1 − yη)/t)), the hinge as t → 0 [KL17 4.2]; labels −1/1 or 0/1."""

    temperature: float = 0.1
    name = "smooth_hinge"
    unit = "hinge units"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.temperature * F.softplus((1 - targets * outputs) / self.temperature)

    def slope(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -targets * torch.sigmoid((1 - targets * outputs) / self.temperature)

    def curve(self, outputs: Tensor, targets: Tensor) -> Tensor:
        p = torch.sigmoid((1 - targets * outputs) / self.temperature)
        return p * (1 - p) / self.temperature * targets.square()


@dataclass(frozen=True)
class SquaredHinge(SignLoss):
    """max(0, 1 − yη)², labels −1 and 1; its curvature is that of the points inside the margin."""

    name = "squared_hinge"
    unit = "squared hinge units"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (1 - targets * outputs).clamp_min(0).square()

    def slope(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -2 * targets * (1 - targets * outputs).clamp_min(0)

    def curve(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 2 * targets.square() * (targets * outputs < 1)


@dataclass(frozen=True)
class ModifiedHuber(SignLoss):
    """max(0, 1 − yη)², and −4yη where yη < −1; labels −1 and 1."""

    name = "modified_huber"
    unit = "squared hinge units"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        margin = targets * outputs
        return torch.where(margin < -1, -4 * margin, (1 - margin).clamp_min(0).square())

    def slope(self, outputs: Tensor, targets: Tensor) -> Tensor:
        margin = targets * outputs
        return targets * torch.where(margin < -1, -4.0, -2 * (1 - margin).clamp_min(0))

    def curve(self, outputs: Tensor, targets: Tensor) -> Tensor:
        margin = targets * outputs
        return 2 * targets.square() * ((margin < 1) & (margin >= -1))
