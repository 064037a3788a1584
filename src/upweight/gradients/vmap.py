"""Any module, one example at a time, by torch.func: the reference every faster engine must equal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from upweight._typing import Batch, Tensor
from upweight.errors import ConfigError
from upweight.gradients.engine import Engine
from upweight.gradients.guard import as_found
from upweight.objective import Examples, Objective
from upweight.objective.data import map_tensors
from upweight.router import TILE_BYTES
from upweight.tiles import Block, DenseBlock, DenseJacobian, Jacobian

HESSIAN_ROWS = 64
"""Hessian rows formed by one vectorised double backward pass."""


class _Bound(nn.Module):
    """A module and its forward as one callable of a batch."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model = objective.model
        self.call = objective.forward

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.call(self.model, batch)


@dataclass(frozen=True)
class VmapEngine(Engine):
    """Per-example derivatives of any differentiable module."""

    objective: Objective

    @property
    def tile(self) -> int:
        outputs = int(np.prod(self.objective.trailing, dtype=int)) if self.objective.trailing else 1
        return self.objective.batch_size or max(1, min(1024, TILE_BYTES // (8 * self.objective.space.size * outputs)))

    def outputs(
        self, batch: Batch, theta: Tensor | None = None, names: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        with as_found(self.objective.model), torch.no_grad():
            outputs, targets = self.run(self._at(theta), batch)
        if targets is None:
            return outputs.reshape(len(outputs), -1), outputs.new_zeros(len(outputs), 0)
        return self.objective.loss.prepare(outputs, targets, () if names is None else list(names))

    def run(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Any]:
        """Raw outputs and targets at θ; buffers are copies, so the model keeps its own."""
        tracked = {f"model.{name}": value for name, value in self.objective.space.unflatten(theta).items()}
        buffers = {f"model.{name}": value.clone() for name, value in self.objective.model.named_buffers()}
        return functional_call(self._bound, {**self._frozen, **buffers, **tracked}, (batch,))

    def gradients(self, batch: Batch, theta: Tensor | None = None) -> Block:
        _, targets = self.outputs(batch, theta)
        with as_found(self.objective.model):
            rows = vmap(grad(self._loss), in_dims=(None, 0, 0))(self._at(theta), batch, targets)
        return DenseBlock(rows.detach())  # (b, p)

    def jacobian(self, batch: Batch) -> Jacobian:
        with as_found(self.objective.model):
            return DenseJacobian(vmap(jacrev(self._outputs), in_dims=(None, 0))(self._at(None), batch).detach())

    def hessian(self, examples: Examples, weights: Tensor, theta: Tensor | None = None) -> Tensor:
        p = self.objective.space.size
        total = torch.zeros(p, p, dtype=torch.float64, device=self.objective.theta.device)
        for where, batch in self.batches(examples):
            targets = self.outputs(batch, theta)[1]
            with as_found(self.objective.model):
                self._add_hessian(total, self._at(theta), batch, targets, weights[where])
        return total.add_(total.T.clone()).mul_(0.5)

    def curvature_times(self, batch: Batch, direction: Tensor) -> Tensor:
        _, targets = self.outputs(batch)
        slope = grad(self._loss)

        def one(theta: Tensor, example: Batch, target: Tensor) -> Tensor:
            return slope(theta, example, target) @ direction.to(theta.dtype)

        with as_found(self.objective.model):
            return vmap(grad(one), in_dims=(None, 0, 0))(self._at(None), batch, targets).detach()

    def input_gradient(self, batch: Batch, rows: Tensor) -> Tensor:
        if not (isinstance(batch, tuple | list) and isinstance(batch[0], Tensor) and batch[0].is_floating_point()):
            raise ConfigError(
                "perturb found inputs that are not one floating-point tensor. Expected (X, y) with real-valued X; integers such as token ids have no derivative."
            )
        targets = self.outputs(batch)[1]

        def along(inputs: Tensor, raw: Tensor, target: Tensor, row: Tensor) -> Tensor:
            return grad(self._loss)(self._at(None), (inputs, raw), target) @ row

        per_row = vmap(grad(along), in_dims=(None, None, None, 0))
        with as_found(self.objective.model):
            return vmap(per_row, in_dims=(0, 0, 0, None))(
                batch[0], batch[1], targets, rows.to(self.objective.theta.dtype)
            ).detach()

    def _add_hessian(self, total: Tensor, theta: Tensor, batch: Batch, targets: Tensor, weights: Tensor) -> None:
        def weighted(theta: Tensor) -> Tensor:
            outputs, _ = self.run(theta, batch)
            return weights.to(theta.dtype) @ self.objective.loss.values(outputs.reshape(len(outputs), -1), targets)

        def row(direction: Tensor) -> Tensor:
            return grad(lambda point: grad(weighted)(point) @ direction)(theta)

        eye = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
        for start in range(0, len(theta), HESSIAN_ROWS):
            total[start : start + HESSIAN_ROWS] += vmap(row)(eye[start : start + HESSIAN_ROWS]).detach()

    def _outputs(self, theta: Tensor, example: Batch) -> Tensor:
        return self.run(theta, map_tensors(example, partial(torch.unsqueeze, dim=0)))[0].reshape(-1)

    def _loss(self, theta: Tensor, example: Batch, target: Tensor) -> Tensor:
        return self.objective.loss.values(self._outputs(theta, example).unsqueeze(0), target.unsqueeze(0)).reshape(())

    def _at(self, theta: Tensor | None) -> Tensor:
        return self.objective.theta if theta is None else theta.to(self.objective.theta.dtype)

    @cached_property
    def _bound(self) -> _Bound:
        return _Bound(self.objective)

    @cached_property
    def _frozen(self) -> dict[str, Tensor]:
        return {f"model.{name}": value.detach() for name, value in self.objective.model.named_parameters()}
