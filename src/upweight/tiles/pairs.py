"""Rows of queries prepared for a block-diagonal inverse: every pair of a query and an example from their factors.

    rule        queries are kept as                     a pair costs (FLOPs)
    separable   g̃, ã in the eigenbasis, rank r           2·r·(o + i)       each layer used once an example
    written     preconditioned matrices (o, i)          2·o·i             everything else

Separable: 1/(Λ + λ) ≈ Σ_r u_r v_rᵀ, so a pair's score is Σ_r [(g̃∘u_r)·g̃_q] [(ã∘v_r)·ã_q]. The factors are
a singular value decomposition weighted by where gradients have their mass; ranks are raised, cheapest first,
until the error measured against the exact scores of a sample of pairs is within the limit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.kernels import fast_float32
from upweight.linop import BlockDiagonal, Identity, KroneckerEigen, LinearOperator, Scaled
from upweight.router import EXACT_FLOPS, MOST_RANKS, SEPARABLE_ERROR, chunk, route_pairs
from upweight.space import FlatLayout
from upweight.tiles.blocks import Block, BlockSum, DenseBlock, FactoredBlock, LayerBlock, PlacedBlock
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


class LayerPairs(ABC):
    """The queries of one layer, ready to meet the layer's gradients."""

    rule: str

    @abstractmethod
    def against(self, block: LayerBlock) -> Float[Tensor, "b m"]:
        """t_qᵀ P g for every example of a tile and every query."""


@dataclass(frozen=True)
class Written(LayerPairs):
    """Queries times the inverse, written out in the layer's coordinates."""

    rows: Float[Tensor, "m q"]
    rule: str = "written"

    def against(self, block: LayerBlock) -> Tensor:
        return block.own(self.rows)


@dataclass(frozen=True)
class Separable(LayerPairs):
    """Queries in the eigenbasis, scaled by each factor of the inverse spectrum.

    Attributes:
        slopes, inputs: (r·m, o) and (r·m, i), already turned back out of the eigenbasis.
        ranks: r.
        error: this layer's ‖separable − exact‖ over a sample of pairs, in units of the whole score's ‖exact‖.
    """

    slopes: Float[Tensor, "x o"]
    inputs: Float[Tensor, "x i"]
    ranks: int
    error: float
    rule: str = "separable"

    def against(self, block: LayerBlock) -> Tensor:
        assert isinstance(block, FactoredBlock)
        size = chunk(3 * len(self.slopes), block.inputs.element_size())
        found = []
        for g, a in zip(block.outputs.split(size), block.inputs.split(size), strict=True):
            products = (g @ self.slopes.T).mul_(a @ self.inputs.T)  # (b, r·m)
            found.append(products.view(len(g), self.ranks, -1).sum(1))
        return torch.cat(found)


@dataclass(frozen=True)
class Pairs:
    """All layers' queries; a score is the sum over layers."""

    layers: Mapping[Places, LayerPairs]
    count: int

    @fast_float32()
    def against(self, block: Block) -> Float[Tensor, "b m"]:
        """T P Cᵀ, transposed: one row an example."""
        total = None
        for part in parts_of(block):
            scores = self.layers[part.layout.places].against(part)
            total = scores if total is None else total.add_(scores)
        assert total is not None
        return total

    @property
    def rules(self) -> str:
        """Which rule served how many layers, and the largest estimated error of a separable one."""
        names = [layer.rule for layer in self.layers.values()]
        counted = ", ".join(f"{name} {names.count(name)}" for name in sorted(set(names)))
        separable = [layer for layer in self.layers.values() if isinstance(layer, Separable)]
        if not separable:
            return f"product rules: {counted}"
        worst = sum(layer.error**2 for layer in separable) ** 0.5
        return f"product rules: {counted} (rank up to {max(layer.ranks for layer in separable)}, measured error {worst:.1%})"


@fast_float32()
def prepare_pairs(
    queries: list[tuple[LayerJacobian, ...]],
    inverse: BlockDiagonal,
    second_moments: BlockDiagonal,
    sample: Block,
    examples: int,
    force: str | None = None,
) -> Pairs:
    """Bring the queries' gradients to the form their layers are cheapest met in.

    Args:
        queries: for every tile of queries its layers, each with one row a query, or one a query and component.
        inverse: the block-diagonal inverse.
        second_moments: the curvature itself, whose eigenvalues say where training gradients have their mass.
        sample: some training gradients, on which the error of a truncation is measured.
        examples: how many examples the queries will meet: few pairs are not worth an approximation.
        force: 'written' or 'separable', to overrule the router.
    """
    curvature = {layout.places: block for layout, block in second_moments.parts}
    own = {part.layout.places: part for part in parts_of(sample)}
    count = sum(len(tile[0]) * tile[0].slopes.shape[1] for tile in queries)
    if force is None and 2.0 * inverse.size * count * examples <= EXACT_FLOPS:
        force = "written"
    ready: dict[Places, LayerPairs] = {}
    open_drafts: list[Draft] = []
    for layout, block in inverse.parts:
        mine = [layer for tile in queries for layer in tile if layer.layout.places == layout.places]
        draft = None if force == "written" else _draft(mine, block, curvature[layout.places], own[layout.places])
        if draft is None:
            ready[layout.places] = _written(mine, block)
        else:
            open_drafts.append(draft)
    ranks = _ranks(open_drafts, None if force else route_pairs)
    for draft, (rank, error) in zip(open_drafts, ranks, strict=True):
        ready[draft.places] = draft.finished(rank, error) if rank else _written(draft.mine, draft.inverse)
    return Pairs(ready, count)


def _written(mine: list[LayerJacobian], inverse: LinearOperator) -> Written:
    return Written(inverse.after(torch.cat([written_rows(layer).flatten(0, 1) for layer in mine])))


def parts_of(block: Block) -> tuple[LayerBlock, ...]:
    """The layers of a tile."""
    if isinstance(block, DenseBlock):  # a model without layer rules is one block, all of θ
        size = block.values.shape[1]
        return (PlacedBlock(block.values, FlatLayout(size, slice(0, size))),)
    parts = block.parts if isinstance(block, BlockSum) else (block,)
    assert all(isinstance(part, LayerBlock) for part in parts)
    return parts  # pyright: ignore


@dataclass(frozen=True)
class Draft:
    """A layer that might be met separably: factors up to the highest rank, and the error of every rank.

    Attributes:
        slopes, inputs: the queries in the eigenbasis, (m, o) and (m, i).
        errors: squared error of each rank over the sampled pairs.
        exact: the exact scores of the sampled pairs.
    """

    mine: list[LayerJacobian]
    inverse: LinearOperator
    slopes: Float[Tensor, "m o"]
    inputs: Float[Tensor, "m i"]
    u: Float[Tensor, "o r"]
    v: Float[Tensor, "i r"]
    errors: Float[Tensor, "r"]
    exact: Float[Tensor, "b q"]

    @property
    def places(self) -> Places:
        """Where the layer lies."""
        return self.mine[0].layout.places

    def finished(self, ranks: int, error: float) -> Separable:
        """The first ranks, turned back out of the eigenbasis so that gradients need not be turned."""
        slopes = (self.slopes.unsqueeze(0) * self.u.T[:ranks].unsqueeze(1)).flatten(0, 1)  # (r·m, o)
        inputs = (self.inputs.unsqueeze(0) * self.v.T[:ranks].unsqueeze(1)).flatten(0, 1)
        if isinstance(self.inverse, KroneckerEigen):
            slopes, inputs = slopes @ self.inverse.left.T, inputs @ self.inverse.right.T
        return Separable(slopes, inputs, ranks, error)


def _draft(
    mine: list[LayerJacobian], inverse: LinearOperator, curvature: LinearOperator, sample: LayerBlock
) -> Draft | None:
    """The draft of a layer, None where it is used several times an example or has no eigenbasis."""
    factored = [layer for layer in mine if isinstance(layer, FactoredJacobian) and layer.inputs.shape[1] == 1]
    if len(factored) < len(mine) or not isinstance(sample, FactoredBlock):
        return None
    g = torch.cat([layer.slopes.flatten(0, 2) for layer in factored])  # (m, o)
    a = torch.cat([layer.inputs.repeat_interleave(layer.slopes.shape[1], 0)[:, 0] for layer in factored])  # (m, i)
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
    pairs = (g_own, a_own, g[:SAMPLED_QUERIES], a[:SAMPLED_QUERIES])
    exact, errors = _errors(u, v, values, pairs)
    return Draft(mine, inverse, g, a, u, v, errors, exact)


def _errors(
    u: Tensor, v: Tensor, values: Tensor, pairs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Exact scores of the sampled pairs, and the squared error of every rank."""
    g, a, g_query, a_query = pairs
    exact = torch.einsum("bo,qo,oi,bi,qi->bq", g, g_query, values, a, a_query)
    terms = torch.einsum("bo,qo,or->rbq", g, g_query, u) * torch.einsum("bi,qi,ir->rbq", a, a_query, v)
    return exact, (terms.cumsum(0) - exact).square().sum((1, 2))


def _ranks(drafts: list[Draft], route: Callable[[int, int, int], str] | None) -> list[tuple[int, float]]:
    """Ranks raised where an error falls most for its cost, until the sum is within the limit; 0 where writing is cheaper."""
    if not drafts:
        return []
    scale = float(torch.stack([draft.exact for draft in drafts]).sum(0).square().sum().clamp_min(TINY))
    ranks = [1] * len(drafts)
    errors = [(draft.errors / scale).tolist() for draft in drafts]
    while sum(error[rank - 1] for error, rank in zip(errors, ranks, strict=True)) > SEPARABLE_ERROR**2:
        gains = [
            (error[rank - 1] - min(error[rank - 1 :])) / (len(draft.u) + len(draft.v)) if rank < len(error) else 0.0
            for draft, error, rank in zip(drafts, errors, ranks, strict=True)
        ]
        place = max(range(len(gains)), key=lambda k: gains[k])
        if gains[place] <= 0:
            break
        ranks[place] = min(len(errors[place]), ranks[place] + RANK_STEP)
    found = []
    for draft, error, rank in zip(drafts, errors, ranks, strict=True):
        written = route is not None and (
            route(rank, len(draft.v), len(draft.u)) == "written" or error[rank - 1] > SEPARABLE_ERROR**2
        )
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
