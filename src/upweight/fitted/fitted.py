"""A fitted model made ready for questions: its engine, its data and weights, and the ways its curvature is inverted."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.adapters import Adapted
from upweight.curvature import mean_eigenvalue
from upweight.curvature.fisher import labels_of
from upweight.errors import BudgetError, ConfigError, IndexOutOfRange, ModeWarning, listing, warn
from upweight.fitted.alike import require_alike
from upweight.fitted.blocked import AUTO_DAMPING, Blocked
from upweight.fitted.exact import Exact
from upweight.fitted.iterative import of_linear_model, of_network
from upweight.fitted.settings import STRUCTURED, Settings
from upweight.fitted.solvers import ITERATIVE
from upweight.gradients import (
    Engine,
    LinearEngine,
    NetworkEngine,
    Stationarity,
    engine_for,
    estimate_stationarity,
    measure_stationarity,
)
from upweight.gradients.coverage import require_rules
from upweight.gradients.probe import probe
from upweight.linop import BlockDiagonal, LinearOperator
from upweight.objective import Objective
from upweight.objective.data import index_array
from upweight.planning.counts import Task
from upweight.router import PAIR_EXAMPLES, Room, sample_size
from upweight.solve import Fallback, Filter, Inverse, Verdict
from upweight.solve.direct import lowest_eigenvalue
from upweight.tiles import Block
from upweight.tiles.layer_jacobians import LayerJacobian
from upweight.tiles.pairs import Pairs, prepare_pairs

DEAR = 10**7
"""Numbers a network's layers hold over the training set from which its gradient is estimated from some examples."""

SMALL = 4096
"""Parameters of a network up to which its Hessian is formed without being asked for."""

INDEFINITE = "as the Hessian is not positive definite at these parameters"
"""Why a small network is not studied by its Hessian."""

FEW = 16
"""Examples that a truncation is measured on at least, whatever the memory."""

GRADIENT_EXAMPLES = (128, 512)
"""Bounds of the examples it is estimated from."""


@dataclass(frozen=True)
class Fitted:
    """An adapted model with everything questions share, each computed once when first needed."""

    adapted: Adapted
    settings: Settings
    engine: Engine = field(repr=False)
    stationarity: Stationarity
    known: BlockDiagonal | None = field(default=None, repr=False)
    """The curvature in blocks where it was formed before, so that it is not formed again."""

    @property
    def objective(self) -> Objective:
        """The objective whose minimiser was fitted."""
        return self.adapted.objective

    @property
    def linear(self) -> bool:
        """True for a model linear in its parameters, whose exact curvature has closed forms."""
        return isinstance(self.engine, LinearEngine)

    @property
    def protocol(self) -> str:
        """'fixed_mean' or 'fixed_total', resolved."""
        return self.adapted.protocol if self.settings.protocol == "as_refit" else self.settings.protocol

    @cached_property
    def kind(self) -> str:
        """The curvature that is used.

        'auto' is the exact Hessian of linear models, and of small networks where it is positive definite; of other small
        ones the damped Gauss-Newton matrix; else EK-FAC.
        """
        asked = self.settings
        if asked.curvature != "auto":
            return asked.curvature
        if asked.solver_name in ITERATIVE and not self.linear:
            return "ggn"
        if self.linear or asked.solver_name == "cholesky":
            return "hessian"
        if not self.small or isinstance(asked.damping, Filter):
            return "ekfac"
        return "hessian" if self._hessian.definite else "ggn"

    @property
    def small(self) -> bool:
        """True where a network's Hessian fits the memory and is a matter of seconds: p double backward passes."""
        return self._hessian.fits and self.objective.space.size <= SMALL

    @property
    def structured(self) -> bool:
        """True where the curvature is made of blocks and no dense p × p matrix is formed."""
        return self.kind in STRUCTURED

    @cached_property
    def exact(self) -> Exact:
        """The curvature written out."""
        if self.kind == "hessian":
            return self._hessian
        if not self.fell_back:
            return Exact(self.engine, self.settings, self.kind)
        by_rule = self.settings.damping == "auto"
        settings = replace(self.settings, damping=AUTO_DAMPING) if by_rule else self.settings
        return Exact(self.engine, settings, "ggn", f" of the Gauss-Newton matrix, {INDEFINITE}")

    @property
    def fell_back(self) -> bool:
        """True where the Gauss-Newton matrix stands in for a small network's Hessian, which is not positive definite."""
        return self.kind == "ggn" and self.settings.curvature == "auto" and not self.iterates

    @property
    def hessian_floor(self) -> float:
        """The lowest eigenvalue of the Hessian that was given up; NaN where none was."""
        return lowest_eigenvalue(self._hessian.curvature.matrix) if self.fell_back else float("nan")

    @cached_property
    def _hessian(self) -> Exact:
        return Exact(self.engine, self.settings, "hessian")

    @cached_property
    def blocked(self) -> Blocked:
        """The curvature in blocks; EK-FAC stands in where the study's own is exact and only products of it are taken."""
        return Blocked(self.engine, self.settings, self.kind if self.structured else "ekfac", self.known)

    @property
    def forced(self) -> str | None:
        """The product rule asked for, None where the router chooses."""
        return None if self.settings.products == "auto" else self.settings.products

    @property
    def iterates(self) -> bool:
        """True where a network's exact curvature is only multiplied, never written out."""
        return self.settings.solver_name in ITERATIVE and not self.linear

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

    def own_inverse(self, share: float) -> LinearOperator:
        """The inverse that points' own Newton steps are taken with: EK-FAC's where the exact one is only iterated.

        Blocks keep the whole penalty, ρ and all.
        """
        if self.iterates and not self.stands_in:
            return self.row_inverse(1)
        blocks = self.structured or self.iterates
        return self.blocked.inverse.operator if blocks else self.exact.inverse_with(share)

    @property
    def stands_in(self) -> bool:
        """True where EK-FAC stands in for the curvature of the study at questions of points' own."""
        return self.iterates and not ITERATIVE[self.settings.solver_name].at_hand

    @property
    def own_verdict(self) -> Verdict:
        """How ``own_inverse`` was obtained; it says so where EK-FAC stands in for the curvature of the study."""
        if self.stands_in:
            found = self.blocked.inverse.verdict
            return replace(found, method=f"{found.method}, in place of the {self.kind} that is only iterated")
        return self.verdict

    @property
    def verdict(self) -> Verdict:
        """How the curvature was inverted."""
        if self.iterates:
            return self.row_inverse(1).verdict
        return self.blocked.inverse.verdict if self.structured else self.exact.inverse.verdict

    @property
    def mean_curvature(self) -> float:
        """The mean eigenvalue, from what is at hand."""
        return mean_eigenvalue(self.blocked.curvature if self.structured or self.iterates else self.exact.curvature)

    def row_inverse(self, count: int) -> Inverse:
        """The cheapest (H + λI)⁻¹ for this many rows, by the solver asked for where one was."""
        if self.iterates:
            return self._iterative
        if self.linear:
            found = of_linear_model(self.exact, count)
            if found is not None and self.settings.solver_name == "auto" and self.exact.fits:
                return Fallback(found, lambda: self.exact.inverse)
            return found or self.exact.inverse
        return self.blocked.inverse if self.structured else self.exact.inverse

    @cached_property
    def _iterative(self) -> Inverse:
        return of_network(self.blocked, self.kind)

    def pairs(self, queries: list[tuple[LayerJacobian, ...]], count: int) -> Pairs:
        """The layers of queries, ready to meet ``count`` examples through the inverse of the blocks."""
        blocked = self.blocked
        return prepare_pairs(
            queries, blocked.operator, blocked.curvature, lambda: self.sampled_rows, count, self.forced
        )

    def task(self, queries: int, memory: int | None = None) -> Task:
        """What so many queries ask of a plan, within the memory of the study or another."""
        settings = self.settings
        return Task(
            self.objective.count,
            queries,
            memory=memory or settings.budget,
            fisher=settings.fisher,
            bounded=memory is not None or settings.memory is not None,
        )

    @cached_property
    def sampled_rows(self) -> Block:
        """Gradients of some training examples, drawn from all of them: what truncations are measured on."""
        n = self.objective.count
        size = min(sample_size(n, PAIR_EXAMPLES), self._most_sampled)
        drawn = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:size]
        places = np.sort(drawn.numpy())
        return self.engine.gradients(self.objective.moved(self.objective.examples.read(places)))

    @property
    def _most_sampled(self) -> int:
        """Examples that may be captured together for it: an eighth of the memory, as a batch."""
        own = self.engine.example_bytes if isinstance(self.engine, NetworkEngine) else 1
        return max(FEW, self.objective.room.sample // own)

    @cached_property
    def measured_stationarity(self) -> Stationarity:
        """The stationarity of the whole training set, read whole where it was only estimated."""
        return measure_stationarity(self.engine) if self.stationarity.sampled else self.stationarity

    @cached_property
    def gradient(self) -> Float[Tensor, "p"]:
        """∇Q(θ̂) over the whole training set."""
        return self.measured_stationarity.gradient

    @cached_property
    def pending(self) -> Float[Tensor, "p"]:
        """s = H⁻¹∇Q, the Newton step still to be taken, with its sign turned."""
        return self.gradient @ self.exact.inverse.T

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


def _within(engine: Engine, memory: int | float | str | None, labels: int) -> Engine:
    """The engine with batches that keep within the memory, every label of an example with slopes of its own.

    Raises:
        BudgetError: not even one example fits into the memory given.
    """
    if not isinstance(engine, NetworkEngine):
        return engine
    if memory is not None and engine.example_bytes > int(memory):
        raise BudgetError(
            f"memory={int(memory):,} bytes: one example holds {engine.example_bytes:,} bytes in the tracked layers. Expected at least that; raise memory=, or track fewer layers with parameters=."
        )
    batch = engine.objective.room.batch_for(labels)
    return replace(engine, budget=max(engine.example_bytes, min(engine.budget, batch)))


def prepare(adapted: Adapted, settings: Settings) -> Fitted:
    """Probe the model, check its data and gradients, and measure how stationary it is."""
    if adapted.was_training:
        warn(
            "the model was in train mode. It is scored in eval mode and handed back in train mode; call model.eval() to say so yourself.",
            ModeWarning,
        )
    settings = require_alike(adapted, settings)
    adapted = replace(adapted, objective=replace(adapted.objective, room=Room(settings.budget)))
    engine = _within(
        engine_for(adapted.objective), settings.memory, labels_of(settings.fisher, adapted.objective.outputs)
    )
    if settings.strict:
        require_rules(engine)
    probe(engine)
    dear = isinstance(engine, NetworkEngine) and adapted.objective.count * engine.held > DEAR
    return Fitted(
        adapted,
        settings,
        engine,
        estimate_stationarity(engine, sample_size(adapted.objective.count, GRADIENT_EXAMPLES))
        if dear
        else measure_stationarity(engine),
    )
