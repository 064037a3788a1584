"""Exact curvature by its products, never written out: one row a solver.

block_cg   conjugate gradients of all rows at once, preconditioned by EK-FAC
lissa      a stochastic Neumann series, σ measured on minibatches
astra      the same, preconditioned by EK-FAC
lanczos    the largest eigenvalues, λ for the rest
nystrom    a randomised low rank, λ for the rest
woodbury   n·o unknowns instead of p
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.curvature import mean_eigenvalue, shift_gauge
from upweight.curvature.gauge import typical_product
from upweight.curvature.gauss_newton import Differentiated, GaussNewton, curvature_products
from upweight.curvature.products import LinearHessian, kronecker_preconditioner, linear_hessian
from upweight.errors import ConfigError
from upweight.fitted.blocked import Blocked
from upweight.fitted.exact import Exact
from upweight.objective.data import Chosen
from upweight.router import keeps_directions, route_inverse
from upweight.solve import BlockCG, Inverse, Verdict, inverse


def of_linear_model(exact: Exact, count: int) -> BlockCG | None:
    """Block conjugate gradients on a linear model's H for this many rows; None where Cholesky is cheaper.

    Raises:
        ConfigError: a solver these models do not have.
    """
    objective, wanted = exact.engine.objective, exact.settings.solver
    if wanted == "auto":
        wanted = route_inverse(objective.count, objective.space.size, count, exact.settings.budget)
    if wanted not in ("cholesky", "block_cg"):
        raise ConfigError(
            f"solver={wanted!r} found a model linear in its parameters. Expected 'auto', 'cholesky' or 'block_cg' for it, which are exact and cheaper."
        )
    found = linear_hessian(exact.engine, exact.damping) if wanted == "block_cg" else None  # pyright: ignore
    if found is not None:
        return _linear_cg(exact, found)
    if exact.settings.solver == "block_cg":
        raise ConfigError(
            f"solver='block_cg' found the loss {objective.loss.name!r}, whose curvature has no thin form. Expected cross_entropy or a loss of one term an output; use solver='cholesky'."
        )
    return None


def _linear_cg(exact: Exact, hessian: LinearHessian) -> BlockCG:
    fast, objective = hessian.single(), exact.engine.objective
    gauge = None if exact.damping else shift_gauge(objective, hessian)
    mean = typical_product(hessian, objective.theta.double()) if exact.damping else 1.0
    verdict = Verdict(
        "block conjugate gradients",
        damping=exact.damping,
        damping_share=exact.damping / mean,
        gauge=0 if gauge is None else len(gauge),
    )
    return BlockCG(fast, hessian, kronecker_preconditioner(fast), gauge, verdict=verdict)


MINIBATCH = 256
"""Examples of a stochastic solver's minibatch."""


@dataclass(frozen=True)
class Network:
    """A network's exact curvature as solvers want it.

    Attributes:
        blocked: its EK-FAC, for preconditioning and for the unit of λ.
        curved: 'ggn' or 'hessian'.
    """

    blocked: Blocked
    curved: str

    @property
    def dtype(self) -> torch.dtype:
        """The type steps are taken in."""
        return self.blocked.engine.objective.theta.dtype

    def products(self) -> GaussNewton | Differentiated:
        """H + λI."""
        return curvature_products(self.blocked.engine, self.curved, self.blocked.damping, self.dtype)

    def sampled(self, generator: torch.Generator, examples: int = MINIBATCH) -> Differentiated:
        """H + λI of a minibatch, its weights raised to stand for the whole training set."""
        objective = self.blocked.engine.objective
        size = min(examples, objective.count)
        places = np.sort(torch.randperm(objective.count, generator=generator)[:size].numpy())
        diagonal = objective.penalty.diagonal.to(objective.theta.device) + self.blocked.damping
        return Differentiated(
            self.blocked.engine,
            Chosen(objective.examples, places),
            objective.count / size,
            diagonal,
            self.dtype,
            self.curved,
            objective.weights[places],
        )

    def preconditioner(self) -> Callable[[Tensor], Tensor]:
        """V ↦ V(EK-FAC + λI)⁻¹."""
        found = inverse(self.blocked.curvature.damped(self.blocked.damping))
        return lambda rows: rows.to(self.dtype) @ found

    def verdict(self, method: str) -> Verdict:
        """What is known before a row is solved for."""
        damping, mean = self.blocked.damping, mean_eigenvalue(self.blocked.curvature)
        return Verdict(f"{method} on the {NAMES[self.curved]}", damping=damping, damping_share=damping / mean)


NAMES = {"ggn": "Gauss-Newton matrix", "hessian": "Hessian"}


def _block_cg(network: Network) -> Inverse:
    if network.curved == "hessian":
        raise ConfigError(
            "solver='block_cg' found curvature='hessian' of a network, which may be indefinite. Expected curvature='ggn' with it."
        )
    fast = network.products()
    objective, budget = network.blocked.engine.objective, network.blocked.settings.budget
    return BlockCG(
        fast,
        fast.in_type(torch.float64),
        network.preconditioner(),
        keep=keeps_directions(objective.space.size, EXPECTED_ROWS, network.dtype.itemsize, budget),
        verdict=network.verdict("block conjugate gradients, preconditioned by EK-FAC,"),
    )


EXPECTED_ROWS = 100
"""Queries usually asked together; only whether directions are kept rests on it."""

SOLVERS: dict[str, Callable[[Network], Inverse]] = {"block_cg": _block_cg}


def of_network(blocked: Blocked, curved: str) -> Inverse:
    """(H + λI)⁻¹ of a network by the solver its study names.

    Raises:
        ConfigError: a solver that cannot take this curvature.
    """
    return SOLVERS[blocked.settings.solver](Network(blocked, curved))
