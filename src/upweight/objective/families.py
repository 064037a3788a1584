"""Generalised linear models: which family with which link is which loss of the linear predictor η [MN89].

A family gives −log p(y; μ) at dispersion 1, up to what does not depend on μ, and its variance V(μ); a link gives
μ(η). Every family goes with every link. Probabilities near 0 and 1 are taken from their own logarithms.

    families    gaussian, binomial, poisson, gamma, inverse_gaussian, negative_binomial(α), tweedie(p)
    links       identity, log, logit, probit, cloglog, loglog, cauchy, logc, power(k), negative_binomial(α)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError
from upweight.objective.loss import Loss
from upweight.objective.losses import BinaryCrossEntropy, Poisson, SquaredError
from upweight.objective.smooth import Formulated, derivative


@dataclass(frozen=True)
class Link:
    """μ(η); for links onto probabilities also log μ and log(1 − μ), which stay finite where μ rounds to 0 or 1."""

    mean: Callable[[Tensor], Tensor]
    log_mean: Callable[[Tensor], Tensor] | None = None
    log_rest: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Family:
    """−log p(y; μ) and V(μ)."""

    minus_log_likelihood: Callable[[Tensor, Tensor], Tensor]
    variance: Callable[[Tensor], Tensor]
    unit: str = "nats at dispersion 1"
    kind: str = "real"


def _cauchy(eta: Tensor) -> Tensor:
    return 0.5 + torch.atan(eta) / math.pi


def _log1m_exp(z: Tensor) -> Tensor:
    """log(1 − e^z), z < 0."""
    return torch.where(z > -math.log(2), torch.log(-torch.expm1(z)), torch.log1p(-torch.exp(z)))


def _power(k: float) -> Link:
    return Link(lambda eta: eta if k == 1 else eta ** (1 / k))


def _negative_binomial_link(alpha: float) -> Link:
    return Link(lambda eta: 1 / (alpha * torch.expm1(-eta)))


LINKS: dict[str, Callable[[float], Link]] = {
    "identity": lambda _: Link(lambda eta: eta),
    "log": lambda _: Link(torch.exp),
    "logit": lambda _: Link(torch.sigmoid, F.logsigmoid, lambda eta: F.logsigmoid(-eta)),
    "probit": lambda _: Link(torch.special.ndtr, torch.special.log_ndtr, lambda eta: torch.special.log_ndtr(-eta)),
    "cauchy": lambda _: Link(_cauchy, lambda eta: torch.log(_cauchy(eta)), lambda eta: torch.log(_cauchy(-eta))),
    "cloglog": lambda _: Link(
        lambda eta: -torch.expm1(-torch.exp(eta)), lambda eta: _log1m_exp(-torch.exp(eta)), lambda eta: -torch.exp(eta)
    ),
    "loglog": lambda _: Link(
        lambda eta: torch.exp(-torch.exp(-eta)),
        lambda eta: -torch.exp(-eta),
        lambda eta: _log1m_exp(-torch.exp(-eta)),
    ),
    "logc": lambda _: Link(lambda eta: -torch.expm1(eta), _log1m_exp, lambda eta: eta),
    "power": _power,
    "negative_binomial": _negative_binomial_link,
}
"""Links by name; those with a parameter read it."""


def _negative_binomial(alpha: float) -> Family:
    return Family(
        lambda y, mu: torch.log1p(alpha * mu) / alpha - y * torch.log(alpha * mu / (1 + alpha * mu)),
        lambda mu: mu + alpha * mu.square(),
        "nats",
        "count",
    )


def _tweedie(power: float) -> Family:
    if power in _POWERS:
        return FAMILIES[_POWERS[power]](0.0)
    return Family(
        lambda y, mu: mu ** (2 - power) / (2 - power) - y * mu ** (1 - power) / (1 - power),
        lambda mu: mu**power,
    )


_POWERS = {0.0: "gaussian", 1.0: "poisson", 2.0: "gamma", 3.0: "inverse_gaussian"}
FAMILIES: dict[str, Callable[[float], Family]] = {
    "gaussian": lambda _: Family(
        lambda y, mu: 0.5 * (y - mu).square(), lambda mu: torch.ones_like(mu), "squared target units"
    ),
    "binomial": lambda _: Family(
        lambda y, mu: -torch.xlogy(y, mu) - torch.xlogy(1 - y, 1 - mu), lambda mu: mu * (1 - mu), "nats", "proportion"
    ),
    "poisson": lambda _: Family(lambda y, mu: mu - torch.xlogy(y, mu), lambda mu: mu, "nats", "count"),
    "gamma": lambda _: Family(lambda y, mu: y / mu + torch.log(mu), lambda mu: mu.square()),
    "inverse_gaussian": lambda _: Family(lambda y, mu: y / (2 * mu.square()) - 1 / mu, lambda mu: mu**3),
    "negative_binomial": _negative_binomial,
    "tweedie": _tweedie,
}
"""Families by name; those with a parameter read it."""


@dataclass(frozen=True)
class ExponentialFamily(Formulated):
    """−log p(y; μ(η)), written down by a family and a link."""

    family: str
    link: str
    shape: float = 1.0
    """α of the negative binomial, or the power of Tweedie."""
    power: float = 1.0
    """k of a power link, or α of the negative binomial link."""

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The family and its link."""
        return f"{self.family}({self.link})"

    @property
    def unit(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the loss."""
        return self._family.unit

    @property
    def kind(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the targets are."""
        return self._family.kind

    @cached_property
    def _family(self) -> Family:
        return FAMILIES[self.family](self.shape)

    @cached_property
    def _link(self) -> Link:
        return LINKS[self.link](self.power)

    def term(self, outputs: Tensor, targets: Tensor) -> Tensor:
        link = self._link
        if self.family == "binomial" and link.log_mean is not None and link.log_rest is not None:
            return -_times(targets, link.log_mean(outputs)) - _times(1 - targets, link.log_rest(outputs))
        return self._family.minus_log_likelihood(targets, link.mean(outputs))

    def mean(self, outputs: Tensor) -> Tensor:
        return self._link.mean(outputs)

    def squared_residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mu = self.mean(outputs)
        return ((targets - mu).square() / self._family.variance(mu)).sum(1)

    def fisher(self, outputs: Tensor, targets: Tensor) -> Tensor:
        slope = derivative(lambda eta, _: self._link.mean(eta), outputs, targets)
        return torch.diag_embed(slope.square() / self._family.variance(self.mean(outputs)))


def _times(share: Float[Tensor, "b o"], log: Float[Tensor, "b o"]) -> Float[Tensor, "b o"]:
    """share · log, zero where the share is, whatever the logarithm."""
    return torch.where(share == 0, 0.0, share * torch.where(share == 0, 0.0, log))


CANONICAL: dict[tuple[str, str], Callable[[], Loss]] = {
    ("gaussian", "identity"): SquaredError,
    ("binomial", "logit"): BinaryCrossEntropy,
    ("poisson", "log"): Poisson,
}
"""Those that have closed forms of their own."""


def exponential_family(family: str, link: str, shape: float = 1.0, power: float = 1.0) -> Loss:
    """The loss of a family with a link.

    Raises:
        ConfigError: a family or a link that is not in the tables.
    """
    for what, name, table in (("family", family, FAMILIES), ("link", link, LINKS)):
        if name not in table:
            raise ConfigError(f"{what}={name!r} is unknown. Expected one of {', '.join(table)}.")
    if family == "tweedie":
        family = _POWERS.get(shape, family)
    if link == "power" and power == 1.0:
        link = "identity"
    if (family, link) in CANONICAL:
        return CANONICAL[family, link]()
    return ExponentialFamily(family, link, shape, power)
