"""A fitted model made ready for questions: its engine, its curvature, and the inverse of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.adapters import Adapted
from upweight.curvature import (
    Relative,
    block_diagonal,
    damped,
    diagonal,
    ekfac,
    ggn,
    hessian,
    identity,
    kfac,
    mean_eigenvalue,
    shift_gauge,
)
from upweight.curvature.fisher import FISHERS, read_fisher
from upweight.curvature.gauge import typical_product
from upweight.curvature.gauss_newton import GaussNewton
from upweight.curvature.products import LinearHessian, kronecker_preconditioner, linear_hessian
from upweight.errors import BudgetError, ConfigError, IndexOutOfRange, ModeWarning, listing
from upweight.gradients import Engine, LinearEngine, Stationarity, engine_for, measure_stationarity
from upweight.gradients.probe import probe
from upweight.linop import BlockDiagonal, Dense, LinearOperator
from upweight.objective import Objective
from upweight.objective.data import index_array
from upweight.router import dense_bytes, route_inverse
from upweight.solve import BlockCG, CholeskyInverse, Inverse, Inverted, Verdict, inverse

PROTOCOLS = ("as_refit", "fixed_mean", "fixed_total")
EXACT = ("hessian", "ggn")
STRUCTURED: dict[str, Callable[[Engine, str, int], BlockDiagonal]] = {
    "ekfac": ekfac,
    "kfac": lambda engine, fisher, seed: kfac(engine, fisher, seed=seed),
    "diagonal": diagonal,
    "block_diagonal": block_diagonal,
    "identity": lambda engine, fisher, seed: identity(engine),
}
CURVATURES = ("auto", *EXACT, *STRUCTURED)
SOLVERS = ("auto", "cholesky", "block_cg")

AUTO_DAMPING = 0.1
"""Damping of structured curvature in units of each block's mean eigenvalue, where nothing better is known."""


@dataclass(frozen=True)
class Settings:
    """How curvature is formed and inverted, and what refitting means for the penalty."""

    protocol: str = "as_refit"
    curvature: str = "auto"
    solver: str = "auto"
    damping: float | str | Relative | None = "auto"
    memory: int | None = None
    fisher: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        allowed_names = (
            ("protocol", PROTOCOLS),
            ("curvature", CURVATURES),
            ("solver", SOLVERS),
            ("fisher", FISHERS),
        )
        for name, allowed in allowed_names:
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown. Expected one of {', '.join(allowed)}.")
        given = isinstance(self.damping, Relative) or (isinstance(self.damping, int | float) and self.damping >= 0)
        if not (self.damping in ("auto", None) or given):
            raise ConfigError(
                f"damping={self.damping!r}. Expected 'auto', a number of zero or more in the units of the curvature, or uw.Relative(share)."
            )

    @property
    def budget(self) -> int:
        """Bytes the exact path may take: as given, else half of the machine's memory."""
        return self.memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True)
class Fitted:
    """An adapted model with everything questions share, each computed once when first needed."""

    adapted: Adapted
    settings: Settings
    engine: Engine = field(repr=False)
    stationarity: Stationarity

    @property
    def objective(self) -> Objective:
        """The objective whose minimiser was fitted."""
        return self.adapted.objective

    @property
    def protocol(self) -> str:
        """'fixed_mean' or 'fixed_total', resolved."""
        return self.adapted.protocol if self.settings.protocol == "as_refit" else self.settings.protocol

    @cached_property
    def kind(self) -> str:
        """The curvature that is used: 'auto' is the exact Hessian where it fits, else EK-FAC."""
        if self.settings.curvature != "auto":
            return self.settings.curvature
        closed = isinstance(self.engine, LinearEngine)
        return "hessian" if self.fits or closed else "ekfac"

    @property
    def structured(self) -> bool:
        """True where the curvature is made of blocks and no dense p × p matrix is formed."""
        return self.kind in STRUCTURED

    @cached_property
    def damping(self) -> float:
        """λ added to an exact curvature, in its own units; 'auto' adds none."""
        chosen = self.settings.damping
        if isinstance(chosen, Relative):
            return chosen.share * mean_eigenvalue(self.curvature)
        return 0.0 if chosen in ("auto", None) else float(chosen)  # pyright: ignore

    @property
    def weights(self) -> Float[Tensor, "n"]:
        """wᵢ, float64."""
        return self.objective.weights

    @property
    def penalty_gradient(self) -> Float[Tensor, "p"]:
        """∇r(θ̂), float64."""
        return self.objective.penalty.gradient(self.objective.theta.double())

    def shares(self, weights: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
        """ρ: the part of the penalty that goes with each of these weights under the protocol."""
        if self.protocol == "fixed_total" or self.objective.penalty.empty:
            return torch.zeros_like(weights)
        return weights / self.objective.total_weight

    def share(self, weight: float) -> float:
        """ρ of one weight."""
        return float(self.shares(torch.tensor([weight], dtype=torch.float64))[0])

    @cached_property
    def curvature(self) -> Dense:
        """H, or the Gauss-Newton matrix where that was asked for, dense in float64, without damping.

        Raises:
            BudgetError: it does not fit.
        """
        if self.structured:
            raise ConfigError(
                f"this question needs the exact curvature, and the study has curvature={self.kind!r}. Expected 'hessian' or 'ggn', with parameters that fit: track fewer of them, or ask for drop, upweight or self_influence."
            )
        self.require_memory()
        return ggn(self.engine) if self.kind == "ggn" else hessian(self.engine)

    @cached_property
    def blocks(self) -> BlockDiagonal:
        """The structured curvature, without damping."""
        return STRUCTURED[self.kind](self.engine, self.settings.fisher, self.settings.seed)

    @cached_property
    def block_inverse(self) -> Inverted:
        """(F + λI)⁻¹ of the structured curvature; 'auto' damps every block by a tenth of its mean eigenvalue."""
        chosen = self.settings.damping
        damping = Relative(AUTO_DAMPING) if chosen in ("auto", None) else chosen
        found = inverse(damped(self.blocks, damping))  # pyright: ignore
        assert isinstance(found, Inverted)
        name = f"{self.kind} in {len(self.blocks.parts)} blocks, {read_fisher(self.settings.fisher, self.objective.outputs)} Fisher"
        return replace(found, verdict=replace(found.verdict, method=name, residual=None))

    def own_inverse(self, share: float) -> LinearOperator:
        """The inverse that points' own Newton steps are taken with; blocks keep the whole penalty, ρ and all."""
        return self.block_inverse.operator if self.structured else self.inverse_with(share)

    @property
    def verdict(self) -> Verdict:
        """How the curvature was inverted."""
        return self.block_inverse.verdict if self.structured else self.inverse.verdict

    @cached_property
    def gauge(self) -> Float[Tensor, "g p"] | None:
        """Directions that change no output."""
        return None if self.damping else shift_gauge(self.objective, self.curvature)

    @cached_property
    def inverse(self) -> CholeskyInverse:
        """(H + λI)⁻¹ by Cholesky.

        Raises:
            IndefiniteCurvature: H + λI is not positive definite.
        """
        return self.inverse_with(0.0)

    def inverse_with(self, share: float) -> CholeskyInverse:
        """(H + λI + ρ∇²r)⁻¹; the last one asked for is kept."""
        if share not in self._inverses:
            operator = self.curvature if not share else self._with_penalty(share)
            for old in [key for key in self._inverses if key]:
                del self._inverses[old]
            found = inverse(operator.damped(self.damping), self.gauge)
            assert isinstance(found, CholeskyInverse)
            self._inverses[share] = found
        return self._inverses[share]

    def _with_penalty(self, share: float) -> Dense:
        matrix = self.curvature.matrix.clone()
        matrix.diagonal().add_(share * self.objective.penalty.diagonal.to(matrix))
        return Dense(matrix, is_symmetric=True)

    def row_inverse(self, count: int) -> Inverse:
        """The cheapest exact (H + λI)⁻¹ for this many rows of a linear model; Cholesky for the rest."""
        if not isinstance(self.engine, LinearEngine):
            return self._gauss_newton_inverse if self.settings.solver == "block_cg" else self.inverse
        wanted = self.settings.solver
        if wanted == "auto":
            wanted = route_inverse(self.objective.count, self.objective.space.size, count, self.settings.budget)
        exact = linear_hessian(self.engine, self.damping) if wanted == "block_cg" else None
        if exact is not None:
            return self._iterative(exact)
        if self.settings.solver == "block_cg":
            raise ConfigError(
                f"solver='block_cg' found the loss {self.objective.loss.name!r}, whose curvature has no thin form. Expected cross_entropy or a loss of one term an output; use solver='cholesky'."
            )
        return self.inverse

    @cached_property
    def _gauss_newton_inverse(self) -> BlockCG:
        """(G + λI)⁻¹ of a network by block conjugate gradients, preconditioned by its EK-FAC.

        Raises:
            ConfigError: a curvature that is not positive definite by construction was asked for.
        """
        if self.settings.curvature != "ggn":
            raise ConfigError(
                f"solver='block_cg' found curvature={self.settings.curvature!r} of a network, which may be indefinite. Expected curvature='ggn' with it."
            )
        blocks = ekfac(self.engine, self.settings.fisher, self.settings.seed)
        chosen, mean = self.settings.damping, mean_eigenvalue(blocks)
        share = Relative(AUTO_DAMPING) if chosen in ("auto", None) else chosen
        damping = share.share * mean if isinstance(share, Relative) else float(share)  # pyright: ignore
        preconditioner = inverse(blocks.damped(damping))
        working = self.objective.theta.dtype
        verdict = Verdict(
            "block conjugate gradients on the Gauss-Newton matrix, preconditioned by EK-FAC",
            damping=damping,
            damping_share=damping / mean,
        )
        return BlockCG(
            GaussNewton(self.engine, damping, working),
            GaussNewton(self.engine, damping, torch.float64),
            lambda rows: rows.to(working) @ preconditioner,
            verdict=verdict,
        )

    def _iterative(self, exact: LinearHessian) -> BlockCG:
        fast = exact.single()
        gauge = None if self.damping else shift_gauge(self.objective, exact)
        mean = typical_product(exact, self.objective.theta.double()) if self.damping else 1.0
        verdict = Verdict(
            "block conjugate gradients",
            damping=self.damping,
            damping_share=self.damping / mean,
            gauge=0 if gauge is None else len(gauge),
        )
        return BlockCG(fast, exact, kronecker_preconditioner(fast), gauge, verdict=verdict)

    @cached_property
    def pending(self) -> Float[Tensor, "p"]:
        """s = H⁻¹∇Q, the Newton step still to be taken, with its sign turned."""
        return self.stationarity.gradient @ self.inverse.T

    @property
    def fits(self) -> bool:
        """True when the dense road is within the budget."""
        return dense_bytes(self.objective.space.size) <= self.settings.budget

    def require_memory(self) -> None:
        """Refuse a dense matrix that does not fit, before it is formed."""
        if not self.fits:
            needed = dense_bytes(self.objective.space.size)
            raise BudgetError(
                f"p = {self.objective.space.size:,} parameters: the exact Hessian, its factor and its inverse need {needed:,} bytes ({needed / 2**30:,.1f} GiB); "
                f"expected at most the budget of {self.settings.budget:,} bytes. Track fewer parameters (parameters='head.*'), raise memory=, or, "
                "for a model linear in its parameters, ask for order='first' with solver='block_cg'."
            )

    def positions(self, which: Any) -> np.ndarray:
        """Training points by id where the study has ids of its own, else by position; all for None.

        Raises:
            IndexOutOfRange: a point that does not exist.
        """
        ids = self.objective.examples.ids
        if which is None:
            return np.arange(len(ids))
        if isinstance(which, slice):
            which = ids[which]
        single = isinstance(which, Hashable) and not isinstance(which, np.ndarray) and which in self._places
        wanted = index_array([which] if single or np.ndim(which) == 0 else list(which))  # pyright: ignore
        if wanted.dtype == bool:
            raise ConfigError("which= found booleans. Expected positions or ids; use numpy.flatnonzero(mask).")
        if not len(wanted):
            raise ConfigError("which= is empty. Expected at least one training point; leave which out for all of them.")
        missing = [item for item in wanted.tolist() if item not in self._places]
        if missing:
            raise IndexOutOfRange(
                f"no training point is called {listing(missing)}. Expected ids among {listing(ids.tolist(), 3)}; correct which=."
            )
        return np.asarray([self._places[item] for item in wanted.tolist()])

    @cached_property
    def _places(self) -> dict[Any, int]:
        return {item: place for place, item in enumerate(self.objective.examples.ids.tolist())}

    @cached_property
    def _inverses(self) -> dict[float, CholeskyInverse]:
        return {}


def prepare(adapted: Adapted, settings: Settings) -> Fitted:
    """Probe the model, check its data and gradients, and measure how stationary it is."""
    if adapted.was_training:
        warnings.warn(
            "the model was in train mode. It is scored in eval mode and handed back in train mode; call model.eval() to say so yourself.",
            ModeWarning,
            stacklevel=3,
        )
    engine = engine_for(adapted.objective)
    probe(engine)
    return Fitted(adapted, settings, engine, measure_stationarity(engine))
