"""K-FAC: each layer's Fisher as a Kronecker product of input and output-gradient second moments."""

from __future__ import annotations

from upweight.curvature.factors import FlatSums, LayerSums, Sums, Walk, collect, eigenbases, require_finite, summed
from upweight.curvature.penalised import with_penalty
from upweight.errors import ConfigError
from upweight.gradients import Engine
from upweight.linop import BlockDiagonal, Dense, Diagonal, Kronecker, LinearOperator
from upweight.objective import Objective

SHARINGS = ("expand", "reduce")


def kfac(
    source: Objective | Engine, fisher: str = "auto", sharing: str = "expand", seed: int = 0, factor_share: float = 1.0
) -> BlockDiagonal:
    """The K-FAC approximation of the Fisher, one block a layer, with the penalty.

        F_layer ≈ E[Σ_s g gᵀ] ⊗ mean_s[a aᵀ],   s over positions a gradient reaches

    Args:
        fisher: 'exact', 'sampled', 'empirical', or 'auto' (exact where there are few labels).
        sharing: for layers with several positions, 'expand' (positions independent) or 'reduce' (averaged first).

    Error and cost:
        Exact for one linear layer with squared loss; elsewhere an approximation without a bound. One walk,
        n·s·(i² + o²) a layer.
    """
    if sharing not in SHARINGS:
        raise ConfigError(f"sharing={sharing!r} is unknown. Expected one of {', '.join(SHARINGS)}.")
    walk = Walk.of(source, fisher, seed, factor_share)
    with walk.fold.phase("second moments"):
        sums = collect((drawn(0) for drawn in walk.batches()), reduce=sharing == "reduce")
    require_finite(summed(walk, sums), walk.objective)
    found = blocks_of(sums, walk.objective) if walk.fold.size == 1 else _in_eigenbases(walk, sums)
    return with_penalty(found, walk.objective)


def blocks_of(sums: Sums, objective: Objective) -> BlockDiagonal:
    """Kronecker blocks of the layers; whole or diagonal blocks of the rest."""
    parts = tuple((one.layer.layout, _block(one)) for one in sums.values())
    return BlockDiagonal(objective.space.size, parts)


def _in_eigenbases(walk: Walk, sums: Sums) -> BlockDiagonal:
    """The same matrix where there are ranks: eigendecompositions, which its inverse needs, are shared out."""
    bases = eigenbases(walk, sums)
    parts = tuple((one.layer.layout, bases[key] if key in bases else _block(one)) for key, one in sums.items())
    return BlockDiagonal(walk.objective.space.size, parts)


def _block(sums: LayerSums | FlatSums) -> LinearOperator:
    if isinstance(sums, LayerSums):
        return Kronecker(*sums.means)
    return Dense(sums.values.double(), is_symmetric=True) if sums.whole else Diagonal(sums.values)
