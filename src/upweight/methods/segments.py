"""SOURCE: a run unrolled as a few segments of gradient flow, each with a curvature of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from upweight._typing import Float, Tensor
from upweight.curvature import ekfac
from upweight.errors import ConfigError
from upweight.gradients import rows
from upweight.influence.formula import effect
from upweight.methods.checkpoints import require_as_many
from upweight.objective import Objective
from upweight.solve import Filter, Segment, filtered


def source(
    checkpoints: Sequence[Objective], query: Any, rates: Sequence[float], fisher: str = "auto", seed: int = 0
) -> Float[Tensor, "m n"]:
    """Σ_ℓ t_ℓᵀ f(H_ℓ)∇ℓᵢ(θ_ℓ), f(Λ) = (1 − e^{−r_ℓΛ})/Λ: SOURCE (Bae, Lin, Lorraine & Grosse 2024).

        t_L = ∇ℓ_q(θ_L),   t_{ℓ−1} = e^{−r_ℓH_ℓ} t_ℓ

    Args:
        checkpoints: the objective at each of them, in order, from ``at``; one stands for a segment, and the last is the model.
        rates: r_ℓ > 0, learning rate times the steps of the segment; with momentum μ, divided by 1 − μ.
        fisher: of EK-FAC, which stands for H_ℓ.

    Raises:
        ConfigError: not one rate a checkpoint, or a rate that is not above zero.

    Error and cost:
        EK-FAC's error, and the noise of the run left out. A fit and a pass over the training set a checkpoint; m·p numbers.
    """
    require_as_many("source", checkpoints, rates)
    if not all(0 < rate < float("inf") for rate in rates):
        raise ConfigError(f"source found rates={list(rates)}. Expected numbers above zero: learning rate times steps.")
    carried = rows(checkpoints[-1], query).dense()
    total = torch.zeros(())
    for one, rate in zip(reversed(checkpoints), reversed(rates), strict=True):
        curvature = ekfac(one, fisher, seed)
        total = total - effect(carried, filtered(curvature, Segment(rate)), rows(one))
        carried = (carried @ filtered(curvature, Decay(rate))).to(carried.dtype)
    return total


@dataclass(frozen=True)
class Decay(Filter):
    """f(Λ) = e^{−rΛ}: what gradient flow for a time r leaves of a deviation."""

    rate: float
    relative: bool = False

    @property
    def name(self) -> str:
        return f"decay with rate {self.rate:.3g}"

    def of(self, values: Float[Tensor, "..."], unit: float) -> Float[Tensor, "..."]:
        return torch.exp(-self.rate * values)
