"""Losses that are not likelihoods: robust norms of residuals at a given scale, smoothed quantiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from upweight._typing import Tensor
from upweight.objective.smooth import Formulated

Norm = Callable[..., Tensor]
"""(z, its constants) ↦ ρ(z), ½z² near zero, even."""


def _huber(z: Tensor, t: float) -> Tensor:
    a = z.abs()
    return torch.where(a <= t, 0.5 * z.square(), t * a - 0.5 * t * t)


def _ramsay(z: Tensor, a: float) -> Tensor:
    """Ramsay's Ea, with its value and two derivatives right at zero, where |z| has none."""
    s = a * z.abs()
    return torch.where(s == 0, 0.5 * z.square(), (1 - torch.exp(-s) * (1 + s)) / a**2)


def _andrew(z: Tensor, a: float) -> Tensor:
    inside = z.abs() <= a * math.pi
    return torch.where(inside, a * a * (1 - torch.cos(torch.where(inside, z, 0.0) / a)), 2 * a * a)


def _trimmed(z: Tensor, c: float) -> Tensor:
    return torch.where(z.abs() <= c, 0.5 * z.square(), 0.5 * c * c)


def _hampel(z: Tensor, a: float, b: float, c: float) -> Tensor:
    s = z.abs()
    falling = a * (b - a / 2) + a * (s - b) * (1 - (s - b) / (2 * (c - b)))
    top = a * (b - a + c) / 2
    linear = torch.where(s <= b, a * s - 0.5 * a * a, torch.where(s <= c, falling, top))
    return torch.where(s <= a, 0.5 * z.square(), linear)


def _biweight(z: Tensor, c: float) -> Tensor:
    inside = (1 - (z / c).square()).clamp_min(0.0)
    return (c * c / 6) * (1 - inside**3)


NORMS: dict[str, tuple[Norm, tuple[str, ...]]] = {
    "LeastSquares": (lambda z: 0.5 * z.square(), ()),
    "HuberT": (_huber, ("t",)),
    "RamsayE": (_ramsay, ("a",)),
    "AndrewWave": (_andrew, ("a",)),
    "TrimmedMean": (_trimmed, ("c",)),
    "Hampel": (_hampel, ("a", "b", "c")),
    "TukeyBiweight": (_biweight, ("c",)),
}
"""Norms by their names in statsmodels, and what their constants are called there."""


@dataclass(frozen=True)
class RobustNorm(Formulated):
    """s²ρ((y − η)/s) at a given scale s: ½(y − η)² for small residuals."""

    norm: str
    constants: tuple[float, ...]
    scale: float
    unit = "squared target units"
    kind = "real"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The norm."""
        return f"robust({self.norm})"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        rho, _ = NORMS[self.norm]
        return self.scale**2 * rho((targets - outputs) / self.scale, *self.constants)


@dataclass(frozen=True)
class SmoothedQuantile(Formulated):
    """q·r + h·log(1 + e^{−r/h}), r = y − η: the check function of quantile q as h → 0."""

    quantile: float
    bandwidth: float
    name = "smoothed_quantile"
    unit = "target units"
    kind = "real"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        residual = targets - outputs
        return self.quantile * residual + self.bandwidth * F.softplus(-residual / self.bandwidth)


@dataclass(frozen=True)
class InsensitiveLoss(Formulated):
    """The ε-insensitive loss max(0, |r| − ε) with each corner smoothed over t; ``squared`` is its square."""

    epsilon: float
    temperature: float = 0.01
    squared: bool = False
    unit = "target units"
    kind = "real"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Squared or not."""
        return f"{'squared_' if self.squared else ''}epsilon_insensitive"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        residual, t = targets - outputs, self.temperature
        if self.squared:
            return (residual.abs() - self.epsilon).clamp_min(0).square()
        return t * (F.softplus((residual - self.epsilon) / t) + F.softplus((-residual - self.epsilon) / t))
