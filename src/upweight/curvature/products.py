"""The Hessian of a linear model by its products, for block conjugate gradients where p² is too much work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.gradients import LinearEngine
from upweight.linop import LinearOperator
from upweight.solve.cg import BlockCG
from upweight.tiles import LinearLayout

EXPECTED_STEPS = 12
"""Steps the shared Krylov space of a hundred rows usually needs; only the choice of solver rests on it."""


@dataclass(frozen=True)
class LinearHessian(LinearOperator):
    """V ↦ V H for a model linear in its parameters, without forming H.

    (V H) = Σⱼ wⱼ Λⱼ(V aⱼ) ⊗ aⱼ + d∘V with Λⱼ = diag(cⱼ) − uⱼuⱼᵀ: two matrix products over the inputs.
    """

    inputs: Float[Tensor, "n i"]
    curves: Float[Tensor, "n o"]
    ones: Float[Tensor, "n o"] | None
    diagonal: Float[Tensor, "p"]
    layout: LinearLayout

    @property
    def size(self) -> int:
        return self.layout.size

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.inputs.dtype)
        matrices = self.layout.matrix(rows)  # (k, o, i)
        k, o, i = matrices.shape
        total = torch.zeros(k * o, i, dtype=rows.dtype, device=rows.device)
        for start in range(0, len(self.inputs), CHUNK):
            where = slice(start, start + CHUNK)
            inputs = self.inputs[where]
            shifts = (inputs @ matrices.view(k * o, i).T).view(-1, k, o)  # (n, k, o)
            along = None if self.ones is None else shifts @ self.ones[where].unsqueeze(2)
            shifts *= self.curves[where].unsqueeze(1)
            if along is not None:
                shifts -= along * self.ones[where].unsqueeze(1)  # pyright: ignore
            total.addmm_(shifts.view(-1, k * o).T, inputs)
        return self.layout.rows(total.view(k, o, i)) + self.diagonal * rows

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> Tensor:
        return self.after(torch.eye(self.size, dtype=self.inputs.dtype, device=self.inputs.device))


CHUNK = 2048
"""Examples a product reads at a time, so that the shifted outputs stay in cache."""


def block_inverse(engine: LinearEngine, damping: float = 0.0) -> BlockCG:
    """H⁻¹ by block conjugate gradients, preconditioned by the Kronecker product of mean curvature and input Gram.

    Steps run in float32, residuals in float64, whatever the model's type.
    """
    inputs, curves, ones = _pieces(engine)
    diagonal = engine.objective.penalty.diagonal.to(inputs.device) + damping
    exact = LinearHessian(inputs, curves, ones, diagonal, engine.layout)
    fast = LinearHessian(
        inputs.float(), curves.float(), None if ones is None else ones.float(), diagonal.float(), engine.layout
    )
    return BlockCG(fast, exact, kronecker_preconditioner(fast))


def steps_cost(engine: LinearEngine, count: int) -> float:
    """FLOPs of the steps a block of this many rows usually needs."""
    outputs, inputs = engine.layout.outputs, engine.objective.space.size / engine.layout.outputs
    return 4.0 * EXPECTED_STEPS * engine.objective.count * outputs * inputs * count


def kronecker_preconditioner(hessian: LinearHessian) -> Callable[[Tensor], Tensor]:
    """V ↦ V M⁻¹ with M = (Σ wΛ) ⊗ (mean aaᵀ) + mean d, in the eigenbasis of both factors."""
    curvature = torch.diag(hessian.curves.sum(0))
    if hessian.ones is not None:
        curvature = curvature - hessian.ones.T @ hessian.ones
    gram = hessian.inputs.T @ hessian.inputs / len(hessian.inputs)
    left, right = torch.linalg.eigh(curvature.double()), torch.linalg.eigh(gram.double())
    spread = left.eigenvalues.clamp_min(0)[:, None] * right.eigenvalues.clamp_min(0)[None, :]
    floor = float(hessian.diagonal.double().mean()) or 1e-6 * float(spread.mean())
    scale = (1 / (spread + floor)).to(hessian.inputs.dtype)
    outer, inner = left.eigenvectors.to(scale.dtype), right.eigenvectors.to(scale.dtype)

    def apply(rows: Tensor) -> Tensor:
        matrices = hessian.layout.matrix(rows.to(scale.dtype))  # (k, o, i)
        turned = outer.T @ (matrices @ inner) * scale
        return hessian.layout.rows(outer @ (turned @ inner.T))

    return apply


def _pieces(engine: LinearEngine) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs a, and Λ = diag(c) − uuᵀ with the training weights inside, all in float64."""
    loss, found = engine.objective.loss, []
    for where, batch in engine.batches():
        outputs, targets = engine.outputs(batch)
        weights = engine.objective.weights[where].unsqueeze(1)
        if loss.kind == "class":
            p = torch.softmax(outputs.double(), 1)
            found.append((engine.features(batch).inputs.double(), weights * p, weights.sqrt() * p))
        else:
            curves = loss.hessian(outputs, targets).diagonal(dim1=1, dim2=2).double()
            found.append((engine.features(batch).inputs.double(), weights * curves, None))
    inputs, curves = torch.cat([part[0] for part in found]), torch.cat([part[1] for part in found])
    ones = None if found[0][2] is None else torch.cat([part[2] for part in found])  # pyright: ignore
    return inputs, curves, ones
