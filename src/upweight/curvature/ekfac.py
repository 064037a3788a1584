"""EK-FAC: the Fisher's own diagonal in K-FAC's eigenbasis."""

from __future__ import annotations

from dataclasses import replace

import torch

from upweight._typing import Float, Tensor
from upweight.curvature.factors import (
    FlatSums,
    Key,
    LabelRows,
    LayerSums,
    Sums,
    Walk,
    collect,
    eigenbases,
    fits_in_memory,
    require_finite,
    summed,
)
from upweight.curvature.grams import weighted
from upweight.curvature.penalised import with_penalty
from upweight.float32_products import fast_float32
from upweight.gradients import Engine
from upweight.linop import BlockDiagonal, Dense, Diagonal, KroneckerEigen, LinearOperator
from upweight.objective import Objective
from upweight.router import chunk
from upweight.tiles.layer_jacobians import FactoredJacobian, turned_gradients

SquaredInputs = dict[tuple[int, int], dict[Key, Float[Tensor, "b i"]]]
"""By where a batch begins and ends the squared inputs in the eigenbasis, of layers used once an example."""


def ekfac(
    source: Objective | Engine,
    fisher: str = "auto",
    seed: int = 0,
    factor_share: float = 1.0,
    squares: SquaredInputs | None = None,
) -> BlockDiagonal:
    """The EK-FAC approximation of the Fisher, one block a layer, with the penalty.

        F_layer ≈ (Q_B ⊗ Q_A) diag(Λ) (Q_B ⊗ Q_A)ᵀ,   Λ_oi = E[(Q_Bᵀ G Q_A)_oi²],  G = Σ_s g aᵀ

    Sampled labels of Λ are drawn anew: those that chose the basis would be fitted by it.

    Error and cost:
        The best diagonal in that basis; off-diagonal terms and couplings between layers are dropped. For layers used
        once an example n(i² + o²) for the basis and n·(i² + o² + i·o) for Λ, as matrix products; s·i·o an example more where
        positions share them. One walk where all layers' inputs and gradients fit into a gigabyte, else two.

    Args:
        squares: where one walk does, filled with what it had of every batch: self-influence needs it again.
    """
    walk = Walk.of(source, fisher, seed, factor_share)
    again = walk.fisher not in ("exact", "empirical")  # these have no chance in them: one draw serves both
    kept: list[LabelRows] | None = []

    def first_walk():  # a second draw of every batch is kept for Λ where it fits
        nonlocal kept
        for drawn in walk.batches():
            rows = drawn(0)
            kept = kept if kept is not None and fits_in_memory(walk, rows) else None
            if kept is not None:
                kept.append(drawn(1) if again else rows)
            yield rows

    with walk.fold.phase("second moments"):
        sums = collect(first_walk())
    require_finite(summed(walk, sums), walk.objective)
    bases = eigenbases(walk, sums)
    values = {key: torch.zeros_like(basis.values) for key, basis in bases.items()}
    with walk.fold.phase("eigenvalues"):
        for rows in kept if kept is not None else (drawn(1) for drawn in walk.batches()):
            found = _add_squares(rows, bases, values)
            if squares is not None and kept is not None and factor_share == 1:
                squares[rows.where.start, rows.where.stop] = found
    walk.fold.sum("eigenvalues", [values[key] for key in sorted(values)])
    return with_penalty(_blocks(sums, bases, values, walk.objective), walk.objective)


@fast_float32()
def _add_squares(rows: LabelRows, bases: dict[Key, KroneckerEigen], values: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """Λ += Σ w (Q_Bᵀ G Q_A)², over labels as well; the (Q_Aᵀ a)² that went into it."""
    found: dict[Key, Tensor] = {}
    for layer in rows.layers:
        key = layer.layout.places
        if not isinstance(layer, FactoredJacobian):
            continue
        if layer.inputs.shape[1] == 1:
            a, g = layer.inputs.squeeze(1) @ bases[key].right, layer.slopes.squeeze(2) @ bases[key].left
            squares = torch.einsum("bko,b->bo", g.square(), rows.weights)
            found[key] = a.square()
            values[key] += squares.T @ found[key]
        else:
            k, s, o, i = *layer.slopes.shape[1:], layer.inputs.shape[2]
            size = chunk(2 * k * o * i + s * (i + k * o), layer.inputs.element_size())
            slopes, scale = weighted(layer.slopes, rows.weights)
            for part in replace(layer, slopes=slopes).split(size):
                values[key].add_(turned_gradients(part, bases[key]).square_().sum((0, 1)), alpha=scale)
    return found


def _blocks(
    sums: Sums, bases: dict[Key, KroneckerEigen], values: dict[Key, Tensor], objective: Objective
) -> BlockDiagonal:
    def block(key: Key, one: LayerSums | FlatSums) -> LinearOperator:
        if isinstance(one, LayerSums):
            return KroneckerEigen(bases[key].left, bases[key].right, values[key])
        return Dense(one.values.double(), is_symmetric=True) if one.whole else Diagonal(one.values)

    parts = tuple((one.layer.layout, block(key, one)) for key, one in sums.items())
    return BlockDiagonal(objective.space.size, parts)
