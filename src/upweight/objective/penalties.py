"""Penalties r(θ): quadratic, with a weight for every coordinate of θ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError
from upweight.space import ParameterSpace


@dataclass(frozen=True)
class L2:
    """(λ/2)‖θ‖² over the tracked parameters, PyTorch's ``weight_decay=λ``.

    Args:
        strength: λ ≥ 0, on the scale of the objective (the mean loss unless weights say otherwise).
        on: name pattern, or several, of the parameters it acts on; all of them by default.
    """

    strength: float
    on: str | Sequence[str] = "*"

    def __post_init__(self) -> None:
        if not isinstance(self.strength, int | float) or not 0 <= self.strength < float("inf"):
            raise ConfigError(
                f"L2 found a strength of {self.strength!r}. Expected a finite number of zero or more; for no penalty pass penalty=None."
            )


@dataclass(frozen=True)
class Quadratic:
    """r(θ) = ½ Σ dⱼ θⱼ² + Σ sⱼ θⱼ; the linear part is an l1 penalty where no coefficient changes its sign.

    Attributes:
        reach: where a bare λ acts and how strongly, where there is no penalty to read it off; everywhere alike by default.
        slope: sⱼ, None for none.
    """

    diagonal: Float[Tensor, "p"]
    reach: Float[Tensor, "p"] | None = None
    slope: Float[Tensor, "p"] | None = None

    def value(self, theta: Float[Tensor, "p"]) -> Float[Tensor, ""]:
        """r(θ)."""
        quadratic = 0.5 * (self.diagonal.to(theta) * theta.square()).sum()
        return quadratic if self.slope is None else quadratic + self.slope.to(theta) @ theta

    def gradient(self, theta: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """∇r(θ)."""
        quadratic = self.diagonal.to(theta) * theta
        return quadratic if self.slope is None else quadratic + self.slope.to(theta)

    def scaled(self, factor: float) -> Quadratic:
        """The same penalty, stronger or weaker."""
        slope = None if self.slope is None else factor * self.slope
        return replace(self, diagonal=factor * self.diagonal, slope=slope)

    @property
    def empty(self) -> bool:
        """True when there is no penalty at all."""
        return not bool(self.diagonal.any()) and (self.slope is None or not bool(self.slope.any()))


Penalty = L2 | Quadratic | Sequence[L2] | float | None


def read_penalty(penalty: Any, space: ParameterSpace) -> Quadratic:
    """Bind a penalty, a sum of penalties, or a bare λ to a parameter space."""
    if penalty is None:
        return Quadratic(torch.zeros(space.size, dtype=torch.float64))
    if isinstance(penalty, Quadratic):
        return penalty
    if isinstance(penalty, L2):
        return Quadratic(penalty.strength * space.mask(penalty.on))
    if isinstance(penalty, int | float):
        return read_penalty(L2(float(penalty)), space)
    if isinstance(penalty, Sequence) and all(isinstance(part, L2) for part in penalty):
        return Quadratic(torch.stack([read_penalty(part, space).diagonal for part in penalty]).sum(0))
    raise ConfigError(
        f"penalty={penalty!r} is unknown. Expected uw.L2(strength, on=...), a list of them, a number or None."
    )
