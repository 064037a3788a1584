"""Truncations of the queries of a layer, and the rank at which each is good enough.

Separable, for a layer used once an example: 1/(Λ + λ) ≈ Σ_r u_r v_rᵀ, so a pair's score is Σ_r [(g̃∘u_r)·g̃_q] [(ã∘v_r)·ã_q].
Low rank, for one shared by positions: every preconditioned query matrix ≈ Σ_r u_r v_rᵀ, so a score is Σ_s Σ_r (u_r·g_s)(v_r·a_s).
The first is a singular value decomposition weighted by where gradients have their mass, the second each query's own.
Ranks are raised, cheapest first, until the error measured against the exact scores of a sample of pairs is within the limit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.linop import Identity, KroneckerEigen, LinearOperator, Scaled
from upweight.router import MOST_RANKS, SEPARABLE_ERROR, route_low_rank, route_pairs
from upweight.tiles.blocks import FactoredBlock, LayerBlock, SharedBlock
from upweight.tiles.layer_jacobians import FactoredJacobian, LayerJacobian, written_rows

Places = tuple[tuple[int, int], ...]
"""Where a layer's parameters begin and end in θ."""

RANK_STEP = 4
"""Ranks added at a time."""

TINY = torch.finfo(torch.float32).tiny

MASS_FLOOR = 1e-12
"""Share of the largest mass that directions without any still weigh, so that weights can be divided by."""

SAMPLED_QUERIES, SAMPLED_EXAMPLES = 16, 64
"""Pairs on which a truncation's error is measured: a thousand, at a thousandth of the whole cost."""


@dataclass(frozen=True)
class Draft(ABC):
    """A layer that might be met truncated, and the error of every rank up to the highest.

    Attributes:
        errors: squared error of each rank over the sampled pairs.
        exact: the exact scores of the sampled pairs.
    """

    mine: list[FactoredJacobian]
    inverse: LinearOperator
    errors: Float[Tensor, "r"]
    exact: Float[Tensor, "b q"]

    @property
    def places(self) -> Places:
        """Where the layer lies."""
        return self.mine[0].layout.places

    @property
    @abstractmethod
    def rule(self) -> str:
        """The rule it is a draft of."""

    @property
    @abstractmethod
    def price(self) -> int:
        """What one more rank costs a pair."""

    @abstractmethod
    def pays(self, rank: int) -> bool:
        """Whether this rank is cheaper than queries written out."""

    @abstractmethod
    def factors(self, rank: int) -> tuple[Float[Tensor, "x o"], Float[Tensor, "x i"]]:
        """The first ranks of all queries, in the layer's own coordinates, so that gradients need not be turned."""


@dataclass(frozen=True)
class SeparableDraft(Draft):
    """The queries in the eigenbasis, and the inverse spectrum as Σ_r u_r v_rᵀ."""

    slopes: Float[Tensor, "m o"]
    inputs: Float[Tensor, "m i"]
    u: Float[Tensor, "o r"]
    v: Float[Tensor, "i r"]

    @property
    def rule(self) -> str:
        return "separable"

    @property
    def price(self) -> int:
        return len(self.u) + len(self.v)

    def pays(self, rank: int) -> bool:
        return route_pairs(rank, len(self.v), len(self.u)) == "separable"

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        slopes = (self.slopes.unsqueeze(0) * self.u.T[:rank].unsqueeze(1)).flatten(0, 1)  # (r·m, o)
        inputs = (self.inputs.unsqueeze(0) * self.v.T[:rank].unsqueeze(1)).flatten(0, 1)
        if isinstance(self.inverse, KroneckerEigen):
            slopes, inputs = slopes @ self.inverse.left.T, inputs @ self.inverse.right.T
        return slopes, inputs


@dataclass(frozen=True)
class LowRankDraft(Draft):
    """Every preconditioned query matrix as Σ_r u_r v_rᵀ; examples have s positions."""

    slopes: Float[Tensor, "r m o"]
    inputs: Float[Tensor, "r m i"]
    positions: int

    @property
    def rule(self) -> str:
        return "low_rank"

    @property
    def price(self) -> int:
        return self.positions * (self.slopes.shape[2] + self.inputs.shape[2])

    def pays(self, rank: int) -> bool:
        (_, m, o), i = self.slopes.shape, self.inputs.shape[2]
        return route_low_rank(rank, self.positions, i, o, m) == "low_rank"

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        return self.slopes[:rank].flatten(0, 1), self.inputs[:rank].flatten(0, 1)


def draft_of(
    mine: list[LayerJacobian],
    inverse: LinearOperator,
    curvature: LinearOperator,
    sample: LayerBlock,
    force: str | None,
) -> Draft | None:
    """The draft of a layer, None where it has none, or another rule is asked for."""
    factored = [layer for layer in mine if isinstance(layer, FactoredJacobian)]
    if len(factored) < len(mine):
        return None
    if isinstance(sample, FactoredBlock) and force in (None, "separable"):
        return _separable(factored, inverse, curvature, sample)
    if isinstance(sample, SharedBlock) and force in (None, "low_rank"):
        return _low_rank(factored, inverse, sample, force is not None)
    return None


def _separable(
    mine: list[FactoredJacobian], inverse: LinearOperator, curvature: LinearOperator, sample: FactoredBlock
) -> Draft | None:
    """None where there is no eigenbasis."""
    g = torch.cat([layer.slopes.flatten(0, 2) for layer in mine])  # (m, o)
    a = torch.cat([layer.inputs.repeat_interleave(layer.slopes.shape[1], 0)[:, 0] for layer in mine])  # (m, i)
    g_own, a_own = sample.outputs[:SAMPLED_EXAMPLES], sample.inputs[:SAMPLED_EXAMPLES]
    if isinstance(inverse, Scaled) and isinstance(inverse.base, Identity):
        u, v = inverse.factor * g.new_ones(g.shape[1], 1), a.new_ones(a.shape[1], 1)
        values = u @ v.T
    elif isinstance(inverse, KroneckerEigen) and isinstance(curvature, KroneckerEigen):
        g, a, g_own, a_own = g @ inverse.left, a @ inverse.right, g_own @ inverse.left, a_own @ inverse.right
        mass = (g.square().T @ a.square() / len(g)) * curvature.values.clamp_min(0)
        (u, v), values = separate(inverse.values, mass), inverse.values
    else:
        return None
    g_asked, a_asked = g[:SAMPLED_QUERIES], a[:SAMPLED_QUERIES]
    exact = torch.einsum("bo,qo,oi,bi,qi->bq", g_own, g_asked, values, a_own, a_asked)
    terms = torch.einsum("bo,qo,or->rbq", g_own, g_asked, u) * torch.einsum("bi,qi,ir->rbq", a_own, a_asked, v)
    return SeparableDraft(mine, inverse, _errors(terms, exact), exact, g, a, u, v)


def _low_rank(mine: list[FactoredJacobian], inverse: LinearOperator, sample: SharedBlock, forced: bool) -> Draft | None:
    """None where even the first ranks cost more than queries written out."""
    o, i, s = sample.layout.outputs, sample.layout.inputs, sample.inputs.shape[1]
    m = sum(len(layer) * layer.slopes.shape[1] for layer in mine)
    if not forced and route_low_rank(RANK_STEP, s, i, o, m) == "written":
        return None
    rows = inverse.after(torch.cat([written_rows(layer).flatten(0, 1) for layer in mine]))
    left, singular, right = torch.linalg.svd(rows.view(m, o, i), full_matrices=False)
    ranks = min(MOST_RANKS, o, i)
    slopes = (left * singular.unsqueeze(1))[..., :ranks].permute(2, 0, 1)  # (r, m, o)
    inputs = right[:, :ranks].transpose(0, 1)  # (r, m, i)
    g, a = sample.outputs[:SAMPLED_EXAMPLES].to(rows.dtype), sample.inputs[:SAMPLED_EXAMPLES].to(rows.dtype)
    exact = sample.first(SAMPLED_EXAMPLES).own(rows[:SAMPLED_QUERIES])  # (b, q)
    along = torch.einsum("bso,rqo->rbqs", g, slopes[:, :SAMPLED_QUERIES])
    terms = (along * torch.einsum("bsi,rqi->rbqs", a, inputs[:, :SAMPLED_QUERIES])).sum(3)
    return LowRankDraft(mine, inverse, _errors(terms, exact), exact, slopes, inputs, s)


def _errors(terms: Float[Tensor, "r b q"], exact: Float[Tensor, "b q"]) -> Float[Tensor, "r"]:
    """The squared error of every rank."""
    return (terms.cumsum(0) - exact).square().sum((1, 2))


def ranks_of(drafts: list[Draft], forced: bool) -> list[tuple[int, float]]:
    """Ranks raised where an error falls most for its cost, until the sum is within the limit; 0 where writing is cheaper."""
    if not drafts:
        return []
    scale = float(torch.stack([draft.exact for draft in drafts]).sum(0).square().sum().clamp_min(TINY))
    ranks = [1] * len(drafts)
    errors = [(draft.errors / scale).tolist() for draft in drafts]
    while sum(error[rank - 1] for error, rank in zip(errors, ranks, strict=True)) > SEPARABLE_ERROR**2:
        gains = [
            (error[rank - 1] - min(error[rank - 1 :])) / draft.price if rank < len(error) else 0.0
            for draft, error, rank in zip(drafts, errors, ranks, strict=True)
        ]
        place = max(range(len(gains)), key=lambda k: gains[k])
        if gains[place] <= 0:
            break
        ranks[place] = min(len(errors[place]), ranks[place] + RANK_STEP)
    found = []
    for draft, error, rank in zip(drafts, errors, ranks, strict=True):
        written = not forced and (not draft.pays(rank) or error[rank - 1] > SEPARABLE_ERROR**2)
        found.append((0, 0.0) if written else (rank, error[rank - 1] ** 0.5))
    return found


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
