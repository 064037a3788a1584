"""Losses of several outputs that meet: a mean with its dispersion, two equations of one system, event times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.errors import ShapeError
from upweight.objective.elementwise import Elementwise
from upweight.objective.loss import ThinHessian
from upweight.objective.smooth import Joint


@dataclass(frozen=True)
class NegativeBinomialLikelihood(Joint):
    """−log p(y; μ, α) of the negative binomial with outputs (log μ, α): variance μ + αμ^(2 − q), q = 0 (NB2) or 1 (NB1)."""

    q: int = 0
    name = "negative_binomial"
    unit = "nats"
    kind = "count"
    outputs = 2

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        eta, alpha = outputs.unbind(1)
        log_size = self.q * eta - torch.log(alpha)
        size = torch.exp(log_size)
        total = torch.logaddexp(log_size, eta)  # log(size + μ)
        choose = torch.lgamma(size + targets) - torch.lgamma(targets + 1) - torch.lgamma(size)
        return -(choose + size * (log_size - total) + targets * (eta - total))

    def mean(self, outputs: Tensor) -> Tensor:
        return torch.exp(outputs[:, :1])

    def shown(self, outputs: Tensor) -> Tensor:
        return outputs[:, :1]


@dataclass(frozen=True)
class TwoStageLeastSquares(Joint):
    """u(y − v) − ½u² of outputs u = z′λ, v = x′β, whose saddle point is two-stage least squares.

    In λ it is highest where λ = (Z′Z)⁻¹Z′(y − Xβ), and there Σ = ½(y − Xβ)′P_Z(y − Xβ), lowest at β = 2SLS; with
    it every observation has a term of its own, in both stages.
    """

    name = "two_stage_least_squares"
    unit = "squared target units"
    outputs = 2

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        u, v = outputs.unbind(1)
        return u * (targets - v) - 0.5 * u.square()

    def judged(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (targets - outputs[:, 1]).square()

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[:, 1:]

    def shown(self, outputs: Tensor) -> Tensor:
        return outputs[:, 1:]

    def squared_residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (targets - outputs[:, 1]).square()


@dataclass(frozen=True)
class HuberWithScale(Joint):
    """σ + σH((y − η)/σ) of outputs (η, σ), H(z) = z² for |z| ≤ ε and 2ε|z| − ε² beyond: convex in both [H81]."""

    epsilon: float
    name = "huber_with_scale"
    unit = "target units"
    outputs = 2

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        eta, sigma = outputs.unbind(1)
        residual = (targets - eta).abs()
        inside = residual.square() / sigma
        return sigma + torch.where(
            residual <= self.epsilon * sigma, inside, 2 * self.epsilon * residual - sigma * self.epsilon**2
        )

    def judged(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (targets - outputs[:, 0]).square()

    def shown(self, outputs: Tensor) -> Tensor:
        return outputs[:, :1]


@dataclass(frozen=True)
class EventTimes(Elementwise):
    """Cox's partial likelihood (Breslow's ties) as a sum over subjects: Σ_t r_t e^{η_t} − Σ_t d_t η_t [LO81].

    Output t is η_t = α_t + x′β at the t-th event time, the last one x′β alone. Targets are the subject's r (at risk)
    and d (failed) at every event time, and zeros for the last output. Minimised over α, e^{−α_t} = Σ_at risk e^{x′β}
    over the failures, and what remains is the partial likelihood.
    """

    name = "event_times"
    unit = "nats"
    kind = "real"

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        risk, failed = targets.chunk(2, 1)
        return risk * torch.exp(outputs) - failed * outputs

    def slope(self, outputs: Tensor, targets: Tensor) -> Tensor:
        risk, failed = targets.chunk(2, 1)
        return risk * torch.exp(outputs) - failed

    def curve(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return targets.chunk(2, 1)[0] * torch.exp(outputs)

    def thin_hessian(self, outputs: Tensor, targets: Tensor) -> ThinHessian:
        return ThinHessian(self.curve(outputs, targets))

    def shown(self, outputs: Tensor) -> Tensor:
        return outputs[:, -1:]

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        if outputs.ndim != 2 or targets.shape != (len(outputs), 2 * outputs.shape[1]):
            raise ShapeError(
                f"event_times found outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}. Expected (b, t) and (b, 2t): at risk and failed at every event time."
            )
        return outputs, targets.to(outputs.dtype)
