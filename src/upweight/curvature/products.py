"""Curvature of a network by its products, for solvers that never form p × p: Gauss-Newton, or the Hessian itself.

    V ↦ V(Σ wᵢ JᵢᵀΛᵢJᵢ + ∇²r + λI),   V ↦ V(∇²Q + λI)

Where examples have few outputs the Jacobians are captured once, layer by layer, and a product is two matrix
products a layer; elsewhere every product differentiates the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch.func import grad, vjp, vmap

from upweight._typing import Batch, Float, Tensor
from upweight.curvature.fisher import MOST_LABELS, read_fisher
from upweight.float32_products import fast_float32
from upweight.gradients import Engine, NetworkEngine
from upweight.gradients.network import NetworkJacobian
from upweight.gradients.vmap import plain_attention
from upweight.linop import LinearOperator
from upweight.objective import Examples
from upweight.router import TILE_BYTES, chunk
from upweight.tiles import DenseBlock, Jacobian, Rows


class Products(LinearOperator):
    """A symmetric matrix by its products, its diagonal part d = ∇²r + λ and the type products are taken in."""

    diagonal: Float[Tensor, "p"]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return len(self.diagonal)

    @property
    def symmetric(self) -> bool:
        return True

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return self.after(torch.eye(self.size, dtype=self.dtype, device=self.diagonal.device))


@dataclass(frozen=True)
class GaussNewton(Products):
    """V ↦ V(Σ JᵢᵀMᵢJᵢ) + V∘d from Jacobians at hand, Mᵢ = wᵢΛᵢ.

    Attributes:
        tiles: pairs of Jacobians and Mᵢ, each time they are asked for.
        diagonal: d = ∇²r + λ.
        dtype: the type products are taken in.

    Error and cost:
        Exact up to the precision of the captured Jacobians. 4·n·p FLOPs a row and product.
    """

    tiles: Callable[[], Iterable[tuple[Jacobian, Float[Tensor, "b o o"]]]]
    diagonal: Float[Tensor, "p"]
    dtype: torch.dtype

    def after(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.dtype)
        total = rows * self.diagonal.to(rows)
        for jacobian, curvature in self.tiles():
            with fast_float32():
                total += jacobian.pull_sum(curvature.to(rows.dtype) @ jacobian.jvp(rows))
        return total

    def in_type(self, dtype: torch.dtype) -> GaussNewton:
        """The same matrix with products in another type."""
        return replace(self, dtype=dtype)


@dataclass(frozen=True)
class Differentiated(Products):
    """The same products by two backward passes of the model, all rows together.

    Backward passes only: what forward mode makes of a padding row or a custom kernel need not agree with them.

    Attributes:
        curved: 'ggn', or 'hessian' for the model's own curvature as well.
        examples, scale: which examples, and by how much their weights are raised to stand for all.

    Error and cost:
        Exact. about 12·n·p FLOPs a row and product; the outputs of a batch are held once a row.
    """

    engine: Engine
    examples: Examples
    scale: float
    diagonal: Float[Tensor, "p"]
    dtype: torch.dtype
    curved: str = "ggn"
    weights: Float[Tensor, "n"] | None = None

    def after(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.dtype)
        total = rows * self.diagonal.to(rows)
        weights = self.engine.objective.weights if self.weights is None else self.weights
        product = self._through_outputs if self.curved == "ggn" else self._whole
        for where, batch in self.engine.batches(self.examples):
            total += product(rows, batch, self.scale * weights[where].to(self.dtype))
        return total

    def in_type(self, dtype: torch.dtype) -> Differentiated:
        """The same matrix with products in another type."""
        return replace(self, dtype=dtype)

    def _through_outputs(self, rows: Float[Tensor, "k p"], batch: Batch, weights: Float[Tensor, "b"]) -> Tensor:
        outputs, targets = self.engine.outputs(batch)
        outputs = outputs.to(self.dtype)
        theta, function = self.engine.objective.theta.to(self.dtype), self.engine.function_of(batch, self.dtype)

        size = chunk(ACTIVATIONS * outputs.numel(), rows.element_size())
        with plain_attention():
            pull = vjp(function, theta)[1]
            push = vjp(lambda u: pull(u)[0], torch.zeros_like(outputs))[1]  # Jᵀ is linear: its own pullback is J
            shifts = vmap(lambda row: push(row)[0], chunk_size=size)(rows).permute(1, 2, 0)  # (b, o, k)
            bent = self.engine.objective.loss.hessian_times(outputs, targets, shifts) * weights[:, None, None]
            return vmap(lambda u: pull(u)[0], chunk_size=size)(bent.permute(2, 0, 1)).detach()

    def _whole(self, rows: Float[Tensor, "k p"], batch: Batch, weights: Float[Tensor, "b"]) -> Tensor:
        outputs, targets = self.engine.outputs(batch)
        theta, function = self.engine.objective.theta.to(self.dtype), self.engine.function_of(batch, self.dtype)

        def loss(point: Tensor) -> Tensor:
            return weights @ self.engine.objective.loss.values(function(point), targets)

        size = chunk(ACTIVATIONS * outputs.numel(), rows.element_size())
        with plain_attention():
            push = vjp(grad(loss), theta)[1]  # H is symmetric: its pullback is its product
            return vmap(lambda row: push(row)[0], chunk_size=size)(rows).detach()


ACTIVATIONS = 64
"""Numbers a row holds while it is pushed through the layers, in units of the outputs: only the chunk size rests on it."""


def curvature_products(engine: Engine, curved: str, damping: float, dtype: torch.dtype) -> GaussNewton | Differentiated:
    """'ggn' or 'hessian' of the whole training set, with the penalty and λ, by its cheapest products."""
    objective = engine.objective
    diagonal = objective.penalty.diagonal.to(objective.theta.device) + damping
    if curved == "ggn" and isinstance(engine, NetworkEngine) and objective.outputs <= MOST_LABELS:
        return GaussNewton(_captured(engine), diagonal, dtype)
    return Differentiated(engine, objective.examples, 1.0, diagonal, dtype, curved)


def _captured(engine: NetworkEngine) -> Callable[[], Iterable[tuple[Jacobian, Tensor]]]:
    """The Jacobians of all batches: captured once where they fit, else anew for every product."""

    def walk() -> Iterator[tuple[Jacobian, Tensor]]:
        loss, weights = engine.objective.loss, engine.objective.weights
        for where, batch in engine.batches():
            outputs, targets, jacobian = engine.linearised(batch)
            curvature = loss.hessian(outputs, targets) * weights[where, None, None].to(outputs.dtype)
            yield jacobian.written, curvature  # pyright: ignore[reportAttributeAccessIssue]

    numbers = engine.objective.count * engine.held * engine.objective.outputs
    if numbers * engine.objective.theta.element_size() > engine.objective.room.kept:
        return walk
    kept = list(walk())
    return lambda: kept


def change_products(
    engine: Engine, examples: Examples, amounts: Float[Tensor, "s"], diagonal: Float[Tensor, "p"]
) -> GaussNewton | Differentiated:
    """V ↦ V(Σ εᵢJᵢᵀΛᵢJᵢ) + V∘d of some examples with amounts εᵢ of either sign: what a change adds to the curvature."""
    objective = engine.objective
    if objective.outputs > MOST_LABELS:
        return Differentiated(engine, examples, 1.0, diagonal, torch.float64, "ggn", amounts)

    def walk() -> Iterator[tuple[Jacobian, Tensor]]:
        for where, batch in engine.batches(examples):
            outputs, targets, jacobian = engine.linearised(batch)
            curvature = objective.loss.hessian(outputs, targets) * amounts[where, None, None].to(outputs.dtype)
            yield jacobian.written if isinstance(jacobian, NetworkJacobian) else jacobian, curvature

    held = engine.held if isinstance(engine, NetworkEngine) else objective.space.size
    numbers = len(examples) * held * objective.outputs
    if numbers * objective.theta.element_size() > objective.room.kept:
        return GaussNewton(walk, diagonal, torch.float64)
    kept = list(walk())
    return GaussNewton(lambda: kept, diagonal, torch.float64)


def root_rows(engine: Engine) -> Rows:
    """R with RᵀR = Σ wᵢJᵢᵀΛᵢJᵢ: one row an example and label, written out a tile at a time.

    Raises:
        BudgetError: more labels than rows are formed for.
    """
    objective = engine.objective
    read_fisher("exact", objective.outputs)
    size = chunk(objective.space.size * objective.outputs, objective.theta.element_size(), 4 * TILE_BYTES)

    def tiles() -> Iterator[DenseBlock]:
        for where, batch in objective.examples.batches(size):
            outputs, targets, jacobian = engine.linearised(objective.moved(batch))
            spread = objective.weights[where].to(outputs.dtype).sqrt()[:, None]
            slopes = [spread * u for u in objective.loss.root(outputs, targets).unbind(2)]
            yield DenseBlock(torch.cat([jacobian.vjp(u).dense() for u in slopes]))

    numbers = objective.count * objective.outputs * objective.space.size
    count = objective.count * objective.outputs
    if numbers * objective.theta.element_size() > objective.room.kept:
        return Rows(count, objective.space.size, tiles)
    kept = list(tiles())
    return Rows(count, objective.space.size, lambda: iter(kept))
