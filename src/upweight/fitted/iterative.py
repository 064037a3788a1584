"""Exact curvature by its products, never written out: one row a solver.

block_cg   conjugate gradients of all rows at once, preconditioned by the examples that bend most, or by EK-FAC
lissa      a stochastic Neumann series, σ measured on minibatches
astra      the same, preconditioned by EK-FAC
lanczos    the largest eigenvalues, λ for the rest
nystrom    a randomised low rank, λ for the rest
woodbury   n·o unknowns instead of p
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.curvature import mean_eigenvalue, shift_gauge
from upweight.curvature.gauge import typical_product
from upweight.curvature.linear_hessian import LinearHessian, kronecker_preconditioner, linear_hessian
from upweight.curvature.most_curved import most_curved
from upweight.curvature.products import Differentiated, GaussNewton, curvature_products, root_rows
from upweight.errors import ConfigError
from upweight.fitted.blocked import Blocked
from upweight.fitted.exact import Exact
from upweight.fitted.solvers import Solver
from upweight.linop import Diagonal
from upweight.objective.data import Chosen
from upweight.router import keeps_directions, route_inverse
from upweight.solve import (
    BlockCG,
    Inverse,
    Neumann,
    Verdict,
    inverse,
    lanczos,
    nystrom,
    nystrom_preconditioner,
    woodbury,
)
from upweight.solve.verdict import in_units
from upweight.space import LinearLayout


def of_linear_model(exact: Exact, count: int) -> BlockCG | None:
    """Block conjugate gradients on a linear model's H for this many rows; None where Cholesky is cheaper.

    Raises:
        ConfigError: a solver these models do not have.
    """
    objective, wanted = exact.engine.objective, exact.settings.solver_name
    if objective.saddle and wanted in ("auto", "cholesky"):
        return None
    if wanted == "auto":
        wanted = route_inverse(objective.count, objective.space.size, count, exact.settings.budget)
    if wanted not in ("cholesky", "block_cg"):
        raise ConfigError(
            f"solver={wanted!r} found a model linear in its parameters. Expected 'auto', 'cholesky' or 'block_cg' for it, which are exact and cheaper."
        )
    iterated = wanted == "block_cg" and not objective.saddle
    found = linear_hessian(exact.engine, exact.damping) if iterated else None  # pyright: ignore
    if found is not None:
        return _linear_cg(exact, found)
    if exact.settings.solver_name == "block_cg":
        raise ConfigError(
            f"solver='block_cg' found the loss {objective.loss.name!r}, whose curvature has no thin form, or is not positive. Expected cross_entropy or a loss of one term an output; use solver='cholesky'."
        )
    return None


def _linear_cg(exact: Exact, hessian: LinearHessian) -> BlockCG:
    fast, objective = hessian.single(), exact.engine.objective
    gauge = None if exact.damping else shift_gauge(objective, hessian)
    mean = _mean(hessian, exact) if exact.damping else 1.0
    verdict = Verdict(
        "block conjugate gradients",
        damping=exact.damping,
        damping_share=in_units(exact.damping, mean),
        gauge=0 if gauge is None else len(gauge),
    )
    return BlockCG(fast, hessian, kronecker_preconditioner(fast), gauge, verdict=verdict)


def _mean(hessian: LinearHessian, exact: Exact) -> float:
    """The mean eigenvalue of H without λ; of maps whose outputs share coordinates the typical one."""
    if isinstance(hessian.layout, LinearLayout):
        return hessian.mean_eigenvalue - exact.damping
    return typical_product(hessian, exact.engine.objective.theta.double()) - exact.damping


MINIBATCH = 256
"""Examples of a stochastic solver's minibatch."""

NEARLY = 1e-3
"""Residual up to which block conjugate gradients that ran out of steps still answer a question, and say so."""

RANK = 100
"""Of the low-rank solvers."""


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

    @property
    def asked(self) -> Solver:
        """The solver's own options."""
        return self.blocked.settings.chosen_solver

    @property
    def rank(self) -> int:
        """Of a low-rank answer, as given or a hundred."""
        return min(int(self.asked.rank or RANK), self.blocked.engine.objective.space.size)

    def products(self, damping: float | None = None) -> GaussNewton | Differentiated:
        """H + λI."""
        damping = self.blocked.damping if damping is None else damping
        return curvature_products(self.blocked.engine, self.curved, damping, self.dtype)

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

    def preconditioner(self, kind: str = "ekfac") -> Callable[[Tensor], Tensor]:
        """V ↦ V(M + λI)⁻¹ for a structured curvature M, EK-FAC by default."""
        blocks = self.blocked if self.blocked.kind == kind else replace(self.blocked, kind=kind, known=None)
        found = inverse(blocks.curvature.damped(self.blocked.damping))
        return lambda rows: rows.to(self.dtype) @ found

    def verdict(self, method: str) -> Verdict:
        """What is known before a row is solved for."""
        damping, mean = self.blocked.damping, mean_eigenvalue(self.blocked.curvature)
        return Verdict(f"{method} on the {NAMES[self.curved]}", damping=damping, damping_share=damping / mean)

    def named(self, verdict: Verdict) -> Verdict:
        """A solver's own verdict with λ in the unit of this study, and which matrix it is of."""
        return replace(self.verdict(verdict.method), iterations=verdict.iterations, residual=verdict.residual)


SPELLED = {"ekfac": "EK-FAC", "kfac": "K-FAC"}

NAMES = {"ggn": "Gauss-Newton matrix", "hessian": "Hessian"}


def _block_cg(network: Network) -> Inverse:
    if network.curved == "hessian":
        raise ConfigError(
            "solver='block_cg' found curvature='hessian' of a network, which may be indefinite. Expected curvature='ggn' with it."
        )
    fast, asked = network.products(), network.asked
    keep = keeps_directions(fast.size, EXPECTED_ROWS, network.dtype.itemsize, network.blocked.settings.budget)
    words, precondition = _conditioned(network, fast)
    return BlockCG(
        fast,
        fast.in_type(torch.float64),
        precondition,
        accept=NEARLY,
        keep=keep,
        verdict=network.verdict(f"block conjugate gradients{words}"),
        **asked.given("steps", "tolerance"),
    )


def _conditioned(network: Network, fast: GaussNewton | Differentiated) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The preconditioner asked for, in words and as a function."""
    captured = isinstance(fast, GaussNewton) and float(fast.diagonal.min()) > 0
    wanted = network.asked.precondition or ("curved" if captured else "ekfac")
    if wanted == "curved":
        if not isinstance(fast, GaussNewton) or not captured:
            raise ConfigError(
                "precondition='curved' found no damping, or a model whose Jacobians are not captured. Expected damping above zero and few outputs an example; use 'ekfac' or 'none'."
            )
        found = most_curved(fast)
        return f", preconditioned by the {len(found.rows)} rows that hold {found.share:.0%} of the curvature,", found
    if wanted == "none":
        return "", lambda rows: rows.to(network.dtype)
    if wanted == "nystrom":
        blocked, seed = network.blocked, network.blocked.settings.seed
        sketch = nystrom_preconditioner(network.products(0.0), network.rank, blocked.damping, seed)
        return f", preconditioned by a Nyström sketch of rank {network.rank},", sketch
    return f", preconditioned by {SPELLED.get(wanted, wanted)},", network.preconditioner(wanted)


def _lissa(network: Network) -> Inverse:
    return _series(network, "stochastic Neumann series (LiSSA)", None)


def _astra(network: Network) -> Inverse:
    return _series(network, "stochastic Neumann series preconditioned by EK-FAC (ASTRA)", network.preconditioner())


def _series(network: Network, name: str, precondition: Callable[[Tensor], Tensor] | None) -> Inverse:
    asked = network.asked
    size = int(asked.minibatch or MINIBATCH)
    return Neumann(
        network.products().in_type(torch.float64),
        lambda generator: network.sampled(generator, size),
        precondition,
        seed=network.blocked.settings.seed,
        verdict=network.verdict(name),
        **asked.given("scale", "steps", "repeats", "tolerance"),
    )


def _lanczos(network: Network) -> Inverse:
    damping, rank = network.blocked.damping, network.rank
    seed, steps = network.blocked.settings.seed, network.asked.given("steps")
    complement = "damping" if damping else "zero"
    found = lanczos(network.products(0.0), rank, damping=damping, complement=complement, seed=seed, **steps)
    return replace(found, verdict=network.named(found.verdict))


def _nystrom(network: Network) -> Inverse:
    found = nystrom(network.products(0.0), network.rank, network.blocked.damping, network.blocked.settings.seed)
    return replace(found, verdict=network.named(found.verdict))


def _woodbury(network: Network) -> Inverse:
    if network.curved == "hessian":
        raise ConfigError(
            "solver='woodbury' found curvature='hessian' of a network, which is no sum of squares. Expected curvature='ggn' with it."
        )
    objective, limit = network.blocked.engine.objective, network.blocked.settings.budget
    diagonal = Diagonal(objective.penalty.diagonal.double().to(objective.theta.device) + network.blocked.damping)
    found = woodbury(diagonal, root_rows(network.blocked.engine), limit=limit)
    return replace(found, verdict=network.named(found.verdict))


EXPECTED_ROWS = 100
"""Queries usually asked together; only whether directions are kept rests on it."""

BUILT: dict[str, Callable[[Network], Inverse]] = {
    "block_cg": _block_cg,
    "lissa": _lissa,
    "astra": _astra,
    "lanczos": _lanczos,
    "nystrom": _nystrom,
    "woodbury": _woodbury,
}


def of_network(blocked: Blocked, curved: str) -> Inverse:
    """(H + λI)⁻¹ of a network by the solver its study names.

    Raises:
        ConfigError: a solver that cannot take this curvature.
    """
    return BUILT[blocked.settings.solver_name](Network(blocked, curved))
