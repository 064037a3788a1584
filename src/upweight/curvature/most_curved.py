"""A preconditioner for Gauss-Newton matrices: the rows that bend most, exactly, and λ for the rest.

    G + λI = Σ rⱼrⱼᵀ + ∇²r + λI ≈ RᵀR + δI,    (RᵀR + δI)⁻¹ = [I − Rᵀ(δI + RRᵀ)⁻¹R] / δ

One row an example and label, rⱼ = Jᵢᵀ√wᵢ s with SSᵀ = Λᵢ; R holds the longest. A trained network is sure of most
of its examples, so few rows carry most of the curvature; what is left out is small beside λ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from upweight._typing import Float, Tensor
from upweight.curvature.products import GaussNewton
from upweight.float32_products import fast_float32
from upweight.router import MOST_ROWS
from upweight.tiles.layer_jacobians import JacobianSum, LayerJacobian, own_gram, sum_of, untied


@dataclass(frozen=True)
class MostCurved:
    """V ↦ V(RᵀR + δI)⁻¹.

    Attributes:
        rows: R, every row a Jacobian of one output.
        factor: Cholesky factor of δI + RRᵀ, float64.
        level: δ.
        share: of tr(Σ rⱼrⱼᵀ) that R holds.
    """

    rows: JacobianSum
    factor: Float[Tensor, "r r"]
    level: float
    share: float

    @fast_float32()
    def __call__(self, vectors: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """Rows times the inverse, in the rows' own precision."""
        vectors = vectors.to(self.rows.parts[0].slopes.dtype)
        along = torch.cholesky_solve(self.rows.jvp(vectors)[:, 0].double(), self.factor)  # (r, k)
        return (vectors - self.rows.pull_sum(along.to(vectors.dtype).unsqueeze(1))) / self.level


def most_curved(products: GaussNewton, most: int = MOST_ROWS) -> MostCurved:
    """The preconditioner of a Gauss-Newton matrix whose Jacobians are captured.

    Error and cost:
        The condition number left is 1 + ‖what R leaves out‖/δ. r²·Σ(i + o) FLOPs for layers used once an example,
        r²·p for others, r³/3 for the factor; then 4·r·p a row.
    """
    lengths, found = [], []
    for jacobian, curvature in products.tiles():
        assert isinstance(jacobian, JacobianSum)
        rows = _rooted(jacobian, curvature)
        lengths.append(sum_of([_squares(layer) for layer in rows]))
        found.append(rows)
    squares = torch.cat(lengths)
    limit = squares.flatten().sort(descending=True).values[: min(most, squares.numel())][-1]
    kept = [_chosen(rows, length >= limit) for rows, length in zip(found, lengths, strict=True)]
    layers = [_joined(list(parts)) for parts in zip(*[rows for rows in kept if len(rows[0])], strict=True)]
    level = float(products.diagonal.mean())
    with fast_float32():
        gram = sum_of([own_gram(layer).double() for layer in layers])
    gram.diagonal().add_(level)
    share = float(squares[squares >= limit].sum() / squares.sum())
    return MostCurved(JacobianSum(tuple(layers)), torch.linalg.cholesky(gram), level, share)


def _rooted(jacobian: JacobianSum, curvature: Float[Tensor, "b o o"]) -> tuple[LayerJacobian, ...]:
    """Layers whose outputs are the columns of S in SSᵀ = Mᵢ."""
    values, vectors = torch.linalg.eigh(curvature)
    root = vectors * values.clamp_min(0).sqrt().unsqueeze(1)  # (b, o, k)
    layers = untied(jacobian.parts, jacobian.tied)
    return tuple(
        replace(layer, slopes=torch.einsum("bok,bo...->bk...", root.to(layer.slopes.dtype), layer.slopes))  # pyright: ignore
        for layer in layers
    )


def _squares(layer: LayerJacobian) -> Float[Tensor, "b k"]:
    """Squared length of every row of a layer."""
    return torch.stack([layer.vjp(unit.expand(len(layer), -1)).squared_norms() for unit in _units(layer)], 1)


def _units(layer: LayerJacobian) -> Tensor:
    return torch.eye(layer.slopes.shape[1], dtype=layer.slopes.dtype, device=layer.slopes.device)


def _chosen(layers: tuple[LayerJacobian, ...], mask: Tensor) -> tuple[LayerJacobian, ...]:
    """Only the rows chosen, each as an example of one output."""
    examples, labels = mask.nonzero(as_tuple=True)
    picked = [layer.select(examples) for layer in layers]
    every = torch.arange(len(examples), device=mask.device)
    return tuple(replace(layer, slopes=layer.slopes[every, labels].unsqueeze(1)) for layer in picked)  # pyright: ignore


def _joined(parts: list[LayerJacobian]) -> LayerJacobian:
    """One layer's rows from all batches."""
    fields = {"slopes": torch.cat([part.slopes for part in parts])}
    for name in ("inputs", "index"):
        if hasattr(parts[0], name):
            fields[name] = torch.cat([getattr(part, name) for part in parts])
    return replace(parts[0], **fields)  # pyright: ignore
