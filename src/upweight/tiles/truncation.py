"""Truncations of the queries of a layer, and the rank at which each is good enough.

Separable, for a layer used once an example: 1/(Λ + λ) ≈ Σ_r u_r v_rᵀ, so a pair's score is Σ_r [(g̃∘u_r)·g̃_q] [(ã∘v_r)·ã_q].
Low rank, for one shared by positions: every preconditioned query matrix ≈ Σ_r u_r v_rᵀ, so a score is Σ_s Σ_r (u_r·g_s)(v_r·a_s).
The first is a singular value decomposition weighted by where gradients have their mass, the second each query's own.
Ranks are raised, cheapest first, until the error measured against the exact scores of a sample of pairs is within the limit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from upweight._typing import Float, Int, Tensor
from upweight.linop import Identity, Kronecker, KroneckerEigen, LinearOperator, Scaled
from upweight.router import MOST_RANKS, TRUNCATION_ERROR, cost_low_rank, cost_separable, worth_low_rank
from upweight.space import LinearLayout
from upweight.tiles.blocks import FactoredBlock, LayerBlock, SharedBlock
from upweight.tiles.layer_jacobians import FactoredJacobian, LayerJacobian, factored_block, rows_after

Places = tuple[tuple[int, int], ...]
"""Where a layer's parameters begin and end in θ."""

RANK_STEP = 4
"""Ranks added at a time."""

MASS_FLOOR = 1e-12
"""Share of the largest mass that directions without any still weigh, so that weights can be divided by."""


@dataclass(frozen=True)
class Truncation(ABC):
    """A layer that might be met truncated, and what every rank up to the highest misses.

    Attributes:
        misses: truncated − exact at every rank, on the sampled pairs.
        exact: the exact scores of the sampled pairs.
    """

    mine: list[FactoredJacobian]
    inverse: LinearOperator
    misses: Float[Tensor, "r b q"]
    exact: Float[Tensor, "b q"]

    @property
    def places(self) -> Places:
        """Where the layer lies."""
        return self.mine[0].layout.places

    @property
    @abstractmethod
    def rule(self) -> str:
        """The name of the rule."""

    @abstractmethod
    def cost(self, rank: int) -> float:
        """Products an example takes with all queries at this rank; at 0, with queries written out."""

    def pays(self, rank: int) -> bool:
        """Whether this rank is cheaper than queries written out."""
        return self.cost(rank) < self.cost(0)

    @abstractmethod
    def factors(self, rank: int) -> tuple[Float[Tensor, "x o"], Float[Tensor, "x i"]]:
        """The first ranks of all queries, in the layer's own coordinates, so that gradients need not be turned."""


@dataclass(frozen=True)
class SeparableTruncation(Truncation):
    """The queries in the eigenbasis, and the inverse spectrum as Σ_r u_r v_rᵀ."""

    slopes: Float[Tensor, "m o"]
    inputs: Float[Tensor, "m i"]
    u: Float[Tensor, "o r"]
    v: Float[Tensor, "i r"]

    @property
    def rule(self) -> str:
        return "separable"

    def cost(self, rank: int) -> float:
        return len(self.slopes) * cost_separable(rank, len(self.v), len(self.u))

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        slopes = (self.slopes.unsqueeze(0) * self.u.T[:rank].unsqueeze(1)).flatten(0, 1)  # (r·m, o)
        inputs = (self.inputs.unsqueeze(0) * self.v.T[:rank].unsqueeze(1)).flatten(0, 1)
        if isinstance(self.inverse, KroneckerEigen):
            slopes, inputs = slopes @ self.inverse.left.T, inputs @ self.inverse.right.T
        return slopes, inputs


@dataclass(frozen=True)
class LowRankTruncation(Truncation):
    """Every preconditioned query matrix as Σ_r u_r v_rᵀ; examples have s positions."""

    slopes: Float[Tensor, "r m o"]
    inputs: Float[Tensor, "r m i"]
    positions: int

    @property
    def rule(self) -> str:
        return "low_rank"

    def cost(self, rank: int) -> float:
        (_, m, o), i = self.slopes.shape, self.inputs.shape[2]
        return cost_low_rank(rank, self.positions, i, o, m)

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        return self.slopes[:rank].flatten(0, 1), self.inputs[:rank].flatten(0, 1)


def truncation_of(
    mine: list[LayerJacobian],
    inverse: LinearOperator,
    curvature: LinearOperator,
    sample: Callable[[], LayerBlock],
    asked: Int[Tensor, "q"],
    force: str | None,
) -> Truncation | None:
    """The truncation of a layer, None where it has none, or another rule is asked for.

    Args:
        sample: the layer's training gradients of the sampled pairs, only called where there is a truncation.
        asked: their queries.
    """
    factored = [layer for layer in mine if isinstance(layer, FactoredJacobian)]
    if len(factored) < len(mine):
        return None
    if factored[0].inputs.shape[1] == 1 and force in (None, "separable"):
        return _separable(factored, inverse, curvature, sample, asked)
    if factored[0].inputs.shape[1] > 1 and force in (None, "low_rank"):
        return _low_rank(factored, inverse, sample, asked, force is not None)
    return None


def factors_of(block: LayerBlock) -> tuple[Float[Tensor, "b s i"], Float[Tensor, "b s o"]]:
    """Inputs and output gradients of a linear map's tile."""
    assert isinstance(block, FactoredBlock | SharedBlock)
    if isinstance(block, FactoredBlock):
        return block.inputs.unsqueeze(1), block.outputs.unsqueeze(1)
    return block.inputs, block.outputs


def _terms(
    g: Float[Tensor, "b s o"], a: Float[Tensor, "b s i"], slopes: Float[Tensor, "r q o"], inputs: Float[Tensor, "r q i"]
) -> Float[Tensor, "r b q"]:
    """What every rank adds to the sampled scores."""
    return torch.stack([((g @ u.T) * (a @ v.T)).sum(1) for u, v in zip(slopes, inputs, strict=True)])


def _separable(
    mine: list[FactoredJacobian],
    inverse: LinearOperator,
    curvature: LinearOperator,
    sample: Callable[[], LayerBlock],
    asked: Int[Tensor, "q"],
) -> Truncation | None:
    """None where there is no eigenbasis."""
    g = torch.cat([layer.slopes.flatten(0, 2) for layer in mine])  # (m, o)
    a = torch.cat([layer.inputs.repeat_interleave(layer.slopes.shape[1], 0)[:, 0] for layer in mine])  # (m, i)
    if isinstance(inverse, Scaled) and isinstance(inverse.base, Identity):
        u, v = inverse.factor * g.new_ones(g.shape[1], 1), a.new_ones(a.shape[1], 1)
        values = u @ v.T
    elif isinstance(inverse, KroneckerEigen) and isinstance(curvature, KroneckerEigen | Kronecker):
        g, a = g @ inverse.left, a @ inverse.right
        mass = (g.square().T @ a.square() / len(g)) * _diagonal_in(inverse, curvature).clamp_min(0)
        (u, v), values = separate(inverse.values, mass), inverse.values
    else:
        return None
    a_own, g_own = factors_of(sample())
    if isinstance(inverse, KroneckerEigen):
        a_own, g_own = a_own @ inverse.right, g_own @ inverse.left
    g_asked, a_asked = g[asked], a[asked]
    exact = torch.cat(
        [_exact(a_own, g_own, values, *few) for few in zip(g_asked.split(16), a_asked.split(16), strict=True)], 1
    )
    terms = _terms(g_own, a_own, u.T.unsqueeze(1) * g_asked, v.T.unsqueeze(1) * a_asked)
    return SeparableTruncation(mine, inverse, terms.cumsum(0) - exact, exact, g, a, u, v)


def _exact(
    a: Float[Tensor, "b s i"],
    g: Float[Tensor, "b s o"],
    values: Float[Tensor, "o i"],
    g_asked: Float[Tensor, "q o"],
    a_asked: Float[Tensor, "q i"],
) -> Float[Tensor, "b q"]:
    """Scores in the eigenbasis of some queries, whose rows are written out."""
    rows = (g_asked.unsqueeze(2) * values * a_asked.unsqueeze(1)).flatten(1)
    layout = LinearLayout(values.shape[0], values.numel(), slice(0, values.numel()), None)
    return factored_block(a, g, layout).own(rows)


def _diagonal_in(basis: KroneckerEigen, curvature: KroneckerEigen | Kronecker) -> Float[Tensor, "o i"]:
    """The curvature's diagonal in the basis."""
    if isinstance(curvature, KroneckerEigen):
        return curvature.values
    left, right = (q.T @ m.to(q.dtype) @ q for q, m in ((basis.left, curvature.left), (basis.right, curvature.right)))
    return torch.outer(left.diagonal(), right.diagonal())


def _low_rank(
    mine: list[FactoredJacobian],
    inverse: LinearOperator,
    sample: Callable[[], LayerBlock],
    asked: Int[Tensor, "q"],
    forced: bool,
) -> Truncation | None:
    """None where the usual rank costs more than queries written out."""
    o, i, s = mine[0].layout.outputs, mine[0].layout.inputs, mine[0].inputs.shape[1]
    m = sum(len(layer) * layer.slopes.shape[1] for layer in mine)
    if not forced and not worth_low_rank(s, i, o, m):
        return None
    rows = torch.cat([rows_after(layer, inverse) for layer in mine])
    left, singular, right = torch.linalg.svd(rows.view(m, o, i), full_matrices=False)
    ranks = min(MOST_RANKS, o, i)
    slopes = (left * singular.unsqueeze(1))[..., :ranks].permute(2, 0, 1)  # (r, m, o)
    inputs = right[:, :ranks].transpose(0, 1)  # (r, m, i)
    block = sample()
    a, g = (part.to(rows.dtype) for part in factors_of(block))
    exact = block.own(rows[asked])  # (b, q)
    terms = _terms(g, a, slopes[:, asked], inputs[:, asked])
    return LowRankTruncation(mine, inverse, terms.cumsum(0) - exact, exact, slopes, inputs, s)


@dataclass(frozen=True)
class Misses:
    """What truncation misses on the sampled pairs, over all layers: in all, and of a typical query's own scores."""

    whole: float = 0.0
    own: float = 0.0

    def __str__(self) -> str:
        return f"measured error {self.whole:.1%}, {self.own:.1%} of a typical query's own scores"


def ranks_of(truncations: list[Truncation], rest: Float[Tensor, "b q"], forced: bool) -> tuple[list[int], Misses]:
    """The rank of every truncation, 0 where writing the queries out is cheaper or needed, and what is then missed.

    Where an error falls most for its cost, ranks are raised until it is within the limit.

    Args:
        rest: what the layers without a truncation add to the sampled scores.
        forced: truncate whatever the cost and the error.
    """
    whole = torch.stack([truncation.exact for truncation in truncations]).sum(0) + rest
    ranks = [1 if forced or truncation.pays(1) else 0 for truncation in truncations]
    while relative_error(missed := _missed(truncations, ranks), whole) > TRUNCATION_ERROR:
        raised = _raised(truncations, ranks, whole, forced)
        if raised is None and forced:
            break
        place, rank = raised or (_worst(truncations, ranks), 0)
        ranks[place] = rank
    return ranks, Misses(relative_error(missed, whole), own_error(missed, whole))


def _raised(
    truncations: list[Truncation], ranks: list[int], whole: Float[Tensor, "b q"], forced: bool
) -> tuple[int, int] | None:
    """Which truncation goes to which rank next: the most error a unit of cost takes away; None where no rank that pays does."""
    now = _missed(truncations, ranks)
    base, best, gain = relative_error(now, whole), None, 0.0
    for place, (truncation, rank) in enumerate(zip(truncations, ranks, strict=True)):
        if not rank:
            continue
        most = len(truncation.misses)
        for higher in {min(rank + more, most) for more in range(RANK_STEP, most + RANK_STEP, RANK_STEP)} - {rank}:
            if not forced and not truncation.pays(higher):
                continue
            after = relative_error(now - truncation.misses[rank - 1] + _missed([truncation], [higher]), whole)
            worth = (base - after) / (truncation.cost(higher) - truncation.cost(rank))
            if worth > gain:
                best, gain = (place, higher), worth
    return best


def _worst(truncations: list[Truncation], ranks: list[int]) -> int:
    """The truncation that misses most."""
    return max(range(len(truncations)), key=lambda k: float(_missed([truncations[k]], [ranks[k]]).norm()))


def _missed(truncations: list[Truncation], ranks: list[int]) -> Float[Tensor, "b q"]:
    """Truncated − exact, summed over layers; a rank of 0 is written out and misses nothing."""
    terms = [
        truncation.misses[rank - 1] if rank else 0 * truncation.exact
        for truncation, rank in zip(truncations, ranks, strict=True)
    ]
    return torch.stack(terms).sum(0)


def relative_error(missed: Float[Tensor, "b q"], whole: Float[Tensor, "b q"]) -> float:
    """‖missed‖/‖whole‖ over all sampled pairs."""
    return float(missed.double().norm() / whole.double().norm().clamp_min(torch.finfo(torch.float64).tiny))


def own_error(missed: Float[Tensor, "b q"], whole: Float[Tensor, "b q"]) -> float:
    """The median over queries of ‖missed‖/‖whole‖ of a query's own scores: small scores are missed by more of themselves."""
    lengths = whole.double().norm(dim=0)
    shares = missed.double().norm(dim=0)[lengths > 0] / lengths[lengths > 0]
    return float(shares.median()) if len(shares) else 0.0


def separate(
    values: Float[Tensor, "o i"], mass: Float[Tensor, "o i"], ranks: int = MOST_RANKS
) -> tuple[Float[Tensor, "o r"], Float[Tensor, "i r"]]:
    """u, v with values ≈ u vᵀ where the mass is.

    The weights of a singular value decomposition must be a product of a row and a column weight: the mass's
    marginals.
    """
    dtype, values, mass = values.dtype, values.double(), mass.double().clamp_min(0)
    floor = MASS_FLOOR * float(mass.max().clamp_min(torch.finfo(torch.float64).tiny))
    rows, columns = (mass.sum(1) + floor).sqrt(), (mass.sum(0) + floor).sqrt()
    left, singular, right = _leading(rows[:, None] * values * columns, ranks)
    return (left * singular / rows[:, None]).to(dtype), (right / columns).T.to(dtype)


def _leading(matrix: Float[Tensor, "o i"], ranks: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triplets, from the Gram matrix of the shorter side: few are needed, to a few digits."""
    if matrix.shape[0] > matrix.shape[1]:
        right, singular, left = _leading(matrix.T, ranks)
        return left.T, singular, right.T
    left = torch.linalg.eigh(matrix @ matrix.T).eigenvectors.flip(1)[:, :ranks]
    rows = left.T @ matrix
    singular = rows.norm(dim=1)
    return left, singular, rows / singular[:, None].clamp_min(torch.finfo(matrix.dtype).tiny)
