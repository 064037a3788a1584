"""The Gauss-Newton matrix of a network by its products, for block conjugate gradients where p² does not fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.func import jvp, vjp, vmap

from upweight._typing import Float, Tensor
from upweight.gradients import Engine
from upweight.gradients.vmap import plain_attention
from upweight.linop import LinearOperator
from upweight.router import chunk


@dataclass(frozen=True)
class GaussNewton(LinearOperator):
    """V ↦ V(Σ wᵢ JᵢᵀΛᵢJᵢ + ∇²r + λI): a forward-mode and a backward pass of all rows together.

    Args:
        engine: whose model and training set.
        damping: λ.
        dtype: the type products are taken in; the model is cast for them and stays as it is.

    Error and cost:
        Exact. 8·n·p FLOPs a row and product; the outputs of a batch are held once a row.
    """

    engine: Engine
    damping: float
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return self.engine.objective.space.size

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.dtype)
        diagonal = self.engine.objective.penalty.diagonal.to(rows) + self.damping
        total = rows * diagonal
        for where, batch in self.engine.batches():
            total += self._of_batch(rows, batch, self.engine.objective.weights[where].to(self.dtype))
        return total

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return self.after(torch.eye(self.size, dtype=self.dtype))

    def _of_batch(self, rows: Float[Tensor, "k p"], batch: object, weights: Float[Tensor, "b"]) -> Tensor:
        outputs, targets = self.engine.outputs(batch)
        curvature = self.engine.objective.loss.hessian(outputs.to(self.dtype), targets) * weights[:, None, None]
        theta, function = self.engine.objective.theta.to(self.dtype), self.engine.function_of(batch, self.dtype)

        def push(row: Tensor) -> Tensor:
            return jvp(function, (theta,), (row,))[1]

        size = chunk(ACTIVATIONS * outputs.numel(), rows.element_size())
        with plain_attention():
            shifts = vmap(push, chunk_size=size)(rows)  # (k, b, o)
            pull = vjp(function, theta)[1]
            return vmap(lambda u: pull(u)[0], chunk_size=size)(torch.einsum("box,kbx->kbo", curvature, shifts)).detach()


ACTIVATIONS = 64
"""Numbers a row holds while it is pushed through the layers, in units of the outputs: only the chunk size rests on it."""
