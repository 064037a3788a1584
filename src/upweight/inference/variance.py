"""The variance of one combination t′θ̂ as a function of the weights: what its sensitivity is the derivative of.

    v(w) = t′H⁻¹ M H⁻¹t  at θ̂(w),   dv/dwᵢ = ∂v/∂wᵢ − ∂v/∂θ · H⁻¹(gᵢ + its share of ∇r)

Weights enter v four ways: through H, through M, through the leverages, and through θ̂; none is left out. A weight
between none and all of a point is read as that share of copies of it, so that M has wᵢw⁰ᵢ gᵢgᵢ′ with w⁰ the weights of the
fit: the same at both ends as wᵢ², and nearly linear between them, which is what leaving points out asks of it. The
formulas are those of ``covariance``, written so that autograd can follow them; it costs a few times n·p².
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError
from upweight.fitted import Fitted
from upweight.gradients import LinearEngine
from upweight.inference.covariance import cluster_factor
from upweight.inference.scale import Scale
from upweight.linop import Dense
from upweight.tiles import LinearJacobian


@dataclass(frozen=True)
class Variance:
    """v of a direction t at any weights and parameters of a model that is linear in its parameters.

    Raises:
        ConfigError: another model, whose curvature is no closed form of the weights.
    """

    fitted: Fitted
    scale: Scale
    direction: Float[Tensor, "p"]

    def __post_init__(self) -> None:
        if not isinstance(self.fitted.engine, LinearEngine):
            raise ConfigError(
                "the sensitivity of a standard error found a model that is not linear in its parameters. Expected a linear predictor, as in regression or its generalisations; ask for the sign, or for a measure of a query."
            )

    def at(self, weights: Float[Tensor, "n"], theta: Float[Tensor, "p"]) -> Float[Tensor, ""]:
        """v, differentiable in both."""
        if self.scale.kind == "classical":
            return self._classical(weights, theta)
        hessian = self._engine.hessian(self.fitted.objective.examples, weights, theta)
        solved = self._solved(self._penalised(hessian, weights))
        own = self._own(hessian, weights, theta) if self.scale.kind in ("hc2", "hc3") else None
        scores = self._scores(theta, solved, own if self.scale.kind == "hc3" else None)  # gᵢ′H⁻¹t
        if self.scale.kind == "ij":
            scores = scores + self._share_of_penalty(theta, solved)
        if self.scale.kind == "cluster":
            clusters = torch.as_tensor(self.scale.clusters)
            sums = scores.new_zeros(int(clusters.max()) + 1).index_add(0, clusters, weights * scores)
            return cluster_factor(self.scale, self.scale.observations(weights)) * sums.square().sum()
        terms = weights * self.fitted.weights * scores.square()
        if self.scale.kind == "hc2":
            assert own is not None
            terms = terms / (1 - own[:, 0, 0])
        n = self.scale.observations(weights)
        size = n / (n - self.scale.parameters) if self.scale.kind == "hc1" else _one()
        return size * (terms / self.scale.counts).sum()

    def gradient(self) -> Float[Tensor, "n"]:
        """dv/dw at the fit, θ̂ following the weights: per unit of weight on each point."""
        fitted = self.fitted
        with torch.enable_grad():
            weights = fitted.weights.detach().clone().requires_grad_()
            theta = fitted.objective.theta.double().detach().clone().requires_grad_()
            direct, through = torch.autograd.grad(self.at(weights, theta), (weights, theta), allow_unused=True)
        found = torch.zeros_like(fitted.weights) if direct is None else direct
        return found if through is None else found - self._rows_against(through @ fitted.exact.inverse)

    @property
    def _engine(self) -> LinearEngine:
        assert isinstance(self.fitted.engine, LinearEngine)
        return self.fitted.engine

    @cached_property
    def _everything(self) -> tuple[LinearJacobian, Tensor]:
        """Inputs and targets of the training set, all at once."""
        found = [self._engine.features(batch) for _, batch in self._engine.batches()]
        inputs, targets = torch.cat([f.inputs for f in found]), torch.cat([f.targets for f in found])
        targets = targets.double() if targets.is_floating_point() else targets
        return LinearJacobian(inputs.double(), self._engine.layout), targets

    def _outputs(self, theta: Tensor) -> Float[Tensor, "n o"]:
        return torch.cat([self._engine.outputs(batch, theta)[0] for _, batch in self._engine.batches()]).double()

    def _scores(
        self, theta: Tensor, solved: Float[Tensor, "p"], own: Float[Tensor, "n o o"] | None = None
    ) -> Float[Tensor, "n"]:
        """gᵢ′H⁻¹t; with the leverages, of the push a drop is made with."""
        jacobian, targets = self._everything
        slopes = self.fitted.objective.loss.gradient(self._outputs(theta), targets)
        if own is not None:
            slopes = torch.linalg.solve(torch.eye(own.shape[1], dtype=own.dtype) - own, slopes)
        return (slopes * jacobian.jvp(solved.unsqueeze(0)).squeeze(2)).sum(1)

    def _own(self, hessian: Tensor, weights: Tensor, theta: Tensor) -> Float[Tensor, "n o o"]:
        """wᵢΛᵢAᵢ of one copy of every point."""
        jacobian, targets = self._everything
        inverse = torch.linalg.inv(self._filled(self._penalised(hessian, weights)))
        inverse = Dense(self._off_gauge(self._off_gauge(inverse).T).T, is_symmetric=not self.fitted.objective.saddle)
        curves = self.fitted.objective.loss.hessian(self._outputs(theta), targets)
        return (self.fitted.weights / self.scale.counts)[:, None, None] * (curves @ jacobian.sandwich(inverse))

    def _penalised(self, hessian: Float[Tensor, "p p"], weights: Tensor) -> Float[Tensor, "p p"]:
        penalty = torch.diag(self.fitted.objective.penalty.diagonal.to(hessian))
        return hessian + self._strength(weights) * penalty

    def _strength(self, weights: Tensor) -> Tensor:
        """The penalty's share of what it was: under 'fixed_mean' it follows the total weight."""
        if self.fitted.protocol == "fixed_total":
            return _one()
        return weights.sum() / self.fitted.objective.total_weight

    def _solved(self, matrix: Float[Tensor, "p p"]) -> Float[Tensor, "p"]:
        """H⁻¹t, off the gauge where there is one."""
        return self._off_gauge(torch.linalg.solve(self._filled(matrix), self.direction))

    def _filled(self, matrix: Float[Tensor, "p p"]) -> Float[Tensor, "p p"]:
        """H with something along its gauge, so that it has an inverse."""
        gauge = self.fitted.exact.gauge
        return matrix if gauge is None else matrix + matrix.detach().diagonal().mean() * gauge.T @ gauge

    def _off_gauge(self, rows: Float[Tensor, "... p"]) -> Float[Tensor, "... p"]:
        gauge = self.fitted.exact.gauge
        return rows if gauge is None else rows - (rows @ gauge.T) @ gauge

    def _share_of_penalty(self, theta: Tensor, solved: Tensor) -> Tensor:
        """Every point's share of ∇r′H⁻¹t, per unit of its weight."""
        if self.fitted.protocol == "fixed_total" or self.fitted.objective.penalty.empty:
            return 0 * _one()
        return self.fitted.objective.penalty.gradient(theta) @ solved / self.fitted.objective.total_weight

    def _classical(self, weights: Tensor, theta: Tensor) -> Tensor:
        hessian = (
            self._engine.fisher(weights, theta)
            if self.scale.inference.expected
            else self._engine.hessian(self.fitted.objective.examples, weights, theta)
        )
        solved = self._solved(self._penalised(hessian, weights))
        information = solved @ hessian @ solved if not self.fitted.objective.penalty.empty else solved @ self.direction
        return self._dispersion(weights, theta) / self.scale.unit * information

    def _dispersion(self, weights: Tensor, theta: Tensor) -> Tensor:
        asked = self.scale.inference.dispersion
        if asked != "estimated":
            return _one() if asked == "one" else _one() * float(asked)  # pyright: ignore
        squares = self.fitted.objective.loss.squared_residual(self._outputs(theta), self._everything[1])
        assert squares is not None
        freedom = self.scale.observations(weights) - self.scale.parameters
        return self.scale.unit * (weights @ squares) / freedom

    def _rows_against(self, row: Float[Tensor, "p"]) -> Float[Tensor, "n"]:
        """(gᵢ + its share of ∇r)′ row."""
        fitted = self.fitted
        found = self._scores(fitted.objective.theta.double(), row)
        return found + fitted.share(1.0) * (fitted.penalty_gradient @ row)


def _one() -> Float[Tensor, ""]:
    return torch.ones((), dtype=torch.float64)
