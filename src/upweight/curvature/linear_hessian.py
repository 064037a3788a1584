"""The Hessian of a linear model by its products, for block conjugate gradients where p² is too much work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.float32_products import fast_float32
from upweight.gradients import LinearEngine
from upweight.linop import LinearOperator
from upweight.space import MapLayout

UNPENALISED_FLOOR = 1e-6
"""Share of the mean eigenvalue that stands in for a penalty, so that the preconditioner has an inverse."""

CHUNK = 2048
"""Examples a product reads at a time, so that the shifted outputs stay in cache."""


@dataclass(frozen=True)
class LinearHessian(LinearOperator):
    """V ↦ V H for a model linear in its parameters, without forming H.

    (V H) = Σⱼ wⱼ Λⱼ(V aⱼ) ⊗ aⱼ + d∘V with Λⱼ = diag(cⱼ) − uⱼuⱼᵀ: two matrix products over the inputs.
    """

    inputs: Float[Tensor, "n i"]
    curves: Float[Tensor, "n o"]
    roots: Float[Tensor, "n o"] | None
    diagonal: Float[Tensor, "p"]
    layout: MapLayout

    @property
    def size(self) -> int:
        return self.layout.size

    @property
    def symmetric(self) -> bool:
        return True

    @fast_float32()
    def after(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.inputs.dtype)
        matrices = self.layout.matrix(rows)  # (k, o, i)
        k, o, i = matrices.shape
        total = torch.zeros(k * o, i, dtype=rows.dtype, device=rows.device)
        for start in range(0, len(self.inputs), CHUNK):
            where = slice(start, start + CHUNK)
            inputs = self.inputs[where]
            shifts = (inputs @ matrices.view(k * o, i).T).view(-1, k, o)  # (n, k, o)
            along = None if self.roots is None else shifts @ self.roots[where].unsqueeze(2)
            shifts *= self.curves[where].unsqueeze(1)
            if along is not None:
                shifts -= along * self.roots[where].unsqueeze(1)  # pyright: ignore
            total += shifts.view(-1, k * o).T @ inputs
        return self.layout.rows(total.view(k, o, i)) + self.diagonal * rows

    def transpose(self) -> LinearOperator:
        return self

    @property
    def mean_eigenvalue(self) -> float:
        """tr/p, the diagonal part included."""
        bends = self.curves if self.roots is None else self.curves - self.roots.square()
        trace = float(bends.sum(1) @ self.inputs.square().sum(1)) + float(self.diagonal.sum())
        return trace / self.size

    def single(self) -> LinearHessian:
        """The same in float32."""
        roots = None if self.roots is None else self.roots.float()
        return LinearHessian(self.inputs.float(), self.curves.float(), roots, self.diagonal.float(), self.layout)

    def dense(self) -> Tensor:
        return self.after(torch.eye(self.size, dtype=self.inputs.dtype, device=self.inputs.device))


def linear_hessian(engine: LinearEngine, damping: float = 0.0) -> LinearHessian | None:
    """H of a linear model by its products, in float64; None for a loss whose Λ has no thin form."""
    loss, found = engine.objective.loss, []
    for where, batch in engine.batches():
        outputs, targets = engine.outputs(batch)
        thin = loss.thin_hessian(outputs.double(), targets)
        if thin is None:
            return None
        weights = engine.objective.weights[where].unsqueeze(1)
        root = None if thin.root is None else weights.sqrt() * thin.root
        found.append((engine.features(batch).inputs.double(), weights * thin.curve, root))
    inputs, curves, roots = zip(*found, strict=True)
    return LinearHessian(
        torch.cat(inputs),
        torch.cat(curves),
        None if roots[0] is None else torch.cat(roots),
        engine.objective.penalty.diagonal.to(engine.objective.theta.device) + damping,
        engine.layout,
    )


def kronecker_preconditioner(hessian: LinearHessian) -> Callable[[Tensor], Tensor]:
    """V ↦ V M⁻¹ with M = (Σ wΛ) ⊗ (mean aaᵀ) + mean d, in the eigenbasis of both factors."""
    curvature = torch.diag(hessian.curves.sum(0))
    if hessian.roots is not None:
        curvature = curvature - hessian.roots.T @ hessian.roots
    gram = hessian.inputs.T @ hessian.inputs / len(hessian.inputs)
    left, right = torch.linalg.eigh(curvature.double()), torch.linalg.eigh(gram.double())
    spread = left.eigenvalues.clamp_min(0)[:, None] * right.eigenvalues.clamp_min(0)[None, :]
    floor = float(hessian.diagonal.double().mean()) or UNPENALISED_FLOOR * float(spread.mean())
    scale = (1 / (spread + floor)).to(hessian.inputs.dtype)
    outer, inner = left.eigenvectors.to(scale.dtype), right.eigenvectors.to(scale.dtype)

    def apply(rows: Tensor) -> Tensor:
        matrices = hessian.layout.matrix(rows.to(scale.dtype))  # (k, o, i)
        turned = outer.T @ (matrices @ inner) * scale
        return hessian.layout.rows(outer @ (turned @ inner.T))

    return apply
