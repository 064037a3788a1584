"""Networks: every layer's gradient as factors from one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from upweight._typing import Batch, Float, Tensor
from upweight.gradients.capture import Captured, Site, capture
from upweight.gradients.engine import Engine
from upweight.gradients.vmap import VmapEngine, absent
from upweight.linop import LinearOperator
from upweight.objective import Examples, Objective
from upweight.router import BATCH_BYTES, batch_examples
from upweight.space import FlatLayout
from upweight.tiles import Block, BlockSum, Jacobian, PlacedBlock
from upweight.tiles.layer_jacobians import JacobianSum, LayerJacobian, PlacedJacobian, untied


@dataclass(frozen=True)
class NetworkEngine(Engine):
    """Layerwise factors for what the layer rules cover, vmap for the rest.

    Attributes:
        sites: the layers whose rules were confirmed.
        rest: names of parameters no rule covers.
        tied: some parameter belongs to several sites.
        held, largest: numbers an example holds while it is captured, and those of its largest tensor.
        budget: bytes a batch may hold.
    """

    general: VmapEngine
    sites: tuple[Site, ...]
    rest: tuple[str, ...]
    tied: bool
    held: int
    largest: int
    budget: int = BATCH_BYTES

    @property
    def objective(self) -> Objective:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.general.objective

    @property
    def tile(self) -> int:
        largest = self.largest * self.objective.theta.element_size()
        return self.objective.batch_size or batch_examples(self.example_bytes, largest, self.budget)

    @property
    def example_bytes(self) -> int:
        """What one example holds while it is captured: the smallest tile."""
        own = sum(self.objective.space.unflatten(self.objective.theta)[name].numel() for name in self.rest)
        return (self.held + own) * self.objective.theta.element_size()

    @property
    def coverage(self) -> dict[str, str]:
        """How the gradient of every tracked parameter is found: the layer whose rule gives it, or 'vmap'."""
        found = dict.fromkeys(self.objective.space.names, "vmap" if self.general.vectorised else "one by one")
        places = {where.start: name for name, where in self.objective.space.slices().items()}
        for site in self.sites:
            for start in site.starts:
                found[places[start]] = type(site.module).__name__
        return found

    def outputs(
        self, batch: Batch, theta: Tensor | None = None, names: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.general.outputs(batch, theta, names)

    def captured(self, batch: Batch, theta: Tensor | None = None) -> Captured:
        """One forward pass with every layer watched, ready to be pulled back."""
        return capture(self.general, self.sites, batch, theta, self.objective.precision)

    def prepared(self, captured: Captured) -> tuple[Float[Tensor, "b o"], Tensor]:
        """Flat outputs and checked targets of a captured pass."""
        return self.objective.loss.prepare(captured.outputs.detach(), captured.targets)

    def gradients(self, batch: Batch, theta: Tensor | None = None) -> Block:
        captured = self.captured(batch, theta)
        slopes = self.objective.loss.gradient(*self.prepared(captured))
        return self.rows(captured, slopes, batch, theta)

    def rows(
        self,
        captured: Captured,
        slopes: Float[Tensor, "b o"],
        batch: Batch,
        theta: Tensor | None = None,
        again: bool = False,
    ) -> Block:
        """The rows Jᵀ·slopes: one backward pass, which may be taken again with other slopes."""
        blocks = captured.blocks(captured.pull(slopes, again))
        if self.rest:
            rest = self.general.pulled_of(self.rest, batch, slopes, theta)
            blocks.extend(PlacedBlock(values, self.place(name)) for name, values in rest.items())
        return BlockSum(tuple(blocks), self.tied)

    def linearised(self, batch: Batch, names: np.ndarray | None = None) -> tuple[Tensor, Tensor, Jacobian]:
        captured = self.captured(batch)
        outputs, targets = captured.outputs.detach(), captured.targets
        if absent(targets):
            targets = outputs.new_zeros(len(outputs), 0)
            return outputs.reshape(len(outputs), -1), targets, NetworkJacobian(self, captured, batch)
        outputs, targets = self.objective.loss.prepare(outputs, targets, () if names is None else list(names))
        return outputs, targets, NetworkJacobian(self, captured, batch)

    def jacobian(self, batch: Batch) -> Jacobian:
        return NetworkJacobian(self, self.captured(batch), batch)

    def written(self, captured: Captured, batch: Batch) -> JacobianSum:
        """J layer by layer: one backward pass an output."""
        units = torch.eye(self.objective.outputs, dtype=captured.outputs.dtype, device=captured.outputs.device)
        pulls = [captured.pull(unit.expand(captured.count, -1).contiguous(), again=True) for unit in units]
        parts = captured.jacobians(pulls)
        if self.rest:
            rest = self.general.jacobians_of(self.rest, batch)
            parts.extend(PlacedJacobian(values, self.place(name)) for name, values in rest.items())
        return JacobianSum(tuple(parts), self.tied)

    def hessian(self, examples: Examples, weights: Tensor, theta: Tensor | None = None) -> Tensor:
        return self.general.hessian(examples, weights, theta)

    def curvature_times(self, batch: Batch, direction: Tensor) -> Tensor:
        return self.general.curvature_times(batch, direction)

    def function_of(self, batch: Batch, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return self.general.function_of(batch, dtype)

    def input_gradient(self, batch: Batch, rows: Tensor) -> Tensor:
        return self.general.input_gradient(batch, rows)

    def place(self, name: str) -> FlatLayout:
        """Where a parameter left to vmap lies."""
        return FlatLayout(self.objective.space.size, self.objective.space.slices()[name])


@dataclass(frozen=True)
class NetworkJacobian(Jacobian):
    """J known by its products: Jᵀu is one backward pass; the rest writes J out layer by layer, once."""

    engine: NetworkEngine
    captured: Captured
    batch: Batch

    def __len__(self) -> int:
        return self.captured.count

    @cached_property
    def written(self) -> JacobianSum:
        """J as factors, one backward pass an output."""
        return self.engine.written(self.captured, self.batch)

    def vjp(self, outputs: Tensor) -> Block:
        return self.engine.rows(self.captured, outputs, self.batch, again=True)

    def pulled(self, slopes: list[Tensor]) -> tuple[LayerJacobian, ...]:
        parts = self.captured.jacobians([self.captured.pull(u, again=True) for u in slopes])
        if self.engine.rest:
            rows = [self.engine.general.pulled_of(self.engine.rest, self.batch, u) for u in slopes]
            for name in self.engine.rest:
                parts.append(PlacedJacobian(torch.stack([row[name] for row in rows], 1), self.engine.place(name)))
        return untied(tuple(parts), self.engine.tied)

    def jvp(self, rows: Tensor) -> Tensor:
        return self.written.jvp(rows)

    def sandwich(self, operator: LinearOperator) -> Tensor:
        return self.written.sandwich(operator)

    def add_gram(self, curvature: Tensor, total: Tensor) -> None:
        self.written.add_gram(curvature, total)

    def dense(self) -> Tensor:
        return self.written.dense()

    def select(self, chosen: Tensor) -> Jacobian:
        return self.written.select(chosen)
