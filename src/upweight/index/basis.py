"""Which numbers are kept of a gradient: coordinates of K-FAC's eigenbasis by how much of the scores lies in them, or a projection.

A score is Σ_j f(Λ_j) t_j g_j in the eigenbasis, so coordinate j contributes about f(Λ_j)Λ_j where queries look like
training points: next to nothing where damping λ is far above Λ_j. The coordinates with the most are kept, over all
layers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from upweight._typing import Float, Int, Tensor
from upweight.curvature import damped, ekfac, mean_eigenvalue
from upweight.errors import ConfigError
from upweight.fitted import Fitted
from upweight.fitted.blocked import AUTO_DAMPING
from upweight.index.settings import MASS, MOST, SKETCH, WHOLE, Compression
from upweight.linop import (
    BlockDiagonal,
    BlockProjection,
    Damped,
    Dense,
    Diagonal,
    Hashed,
    Identity,
    Kronecker,
    KroneckerEigen,
    LinearOperator,
    Picked,
    Projection,
    Sided,
    two_sided,
)
from upweight.solve import Filter, filtered, inverse
from upweight.solve.spectrum import eigenvalues, in_eigenbasis
from upweight.space import FlatLayout, Layout


@dataclass(frozen=True)
class Basis:
    """What is kept, and the curvature it was chosen by.

    Attributes:
        kind: 'eigenbasis', 'sketch', 'logra' or 'none'.
        projection: gradient rows to the numbers that are kept, layer by layer.
        chosen: for every part, which coordinates of its eigenbasis; None where the parts have none.
        curvature: the blocks the eigenbasis is of; None where nothing is turned.
        own: they are the blocks of the study's own curvature.
    """

    kind: str
    projection: BlockProjection
    chosen: tuple[Int[Tensor, "r"], ...] | None
    curvature: BlockDiagonal | None
    own: bool

    @property
    def width(self) -> int:
        """r, numbers an example."""
        return self.projection.width

    @cached_property
    def metric(self) -> BlockDiagonal | None:
        """The curvature with a tenth of each block's mean eigenvalue: what is left out is measured in its inverse."""
        if self.curvature is None:
            return None
        levels = [AUTO_DAMPING.share * mean_eigenvalue(block) or 1.0 for _, block in self.curvature.parts]
        parts = zip(self.curvature.parts, levels, strict=True)
        return BlockDiagonal(self.curvature.width, tuple((at, Damped(block, level)) for (at, block), level in parts))

    @cached_property
    def metric_inverse(self) -> BlockDiagonal | None:
        """Its inverse."""
        return None if self.metric is None else inverse(self.metric).operator  # pyright: ignore

    @cached_property
    def lengths(self) -> Float[Tensor, "r"]:
        """1/(Λ + λ) at every coordinate kept: the metric's inverse there; one where nothing is turned."""
        if self.metric is None or self.chosen is None:
            return torch.ones(self.width, dtype=torch.float64)
        found = []
        for (_, block), places in zip(self.metric.parts, self.chosen, strict=True):
            assert isinstance(block, Damped)
            values = eigenvalues(in_eigenbasis(block.base)).flatten().double()[places]
            found.append(1 / (values.clamp_min(0) + block.damping))
        return torch.cat(found)


def choose(fitted: Fitted, wanted: Compression, layouts: Sequence[Layout]) -> Basis:
    """The basis asked for.

    Args:
        layouts: how the model is cut into layers.

    Raises:
        ConfigError: a projection whose curvature has no block-diagonal form.
    """
    size, kind = fitted.objective.space.size, wanted.kind
    if kind == "auto":
        kind = "none" if size <= WHOLE and wanted.size is None else "eigenbasis"
    if kind == "none":
        parts = tuple((layout, Picked(layout.width, torch.arange(layout.width))) for layout in layouts)
        return Basis(kind, BlockProjection(size, parts), None, None, False)
    if kind in ("logra", "sketch") and not fitted.structured:
        raise ConfigError(
            f"compression={kind!r} found curvature={fitted.kind!r}, whose inverse does not act on projected gradients. Expected a structured one, such as 'ekfac'; or take compression='eigenbasis'."
        )
    if kind == "sketch":
        return _sketched(fitted, wanted)
    if kind == "logra":
        curvature = fitted.blocked.curvature
        projection = two_sided(curvature, *wanted.sides, seed=wanted.seed)
        return Basis(kind, _in_type(projection, fitted), None, curvature, True)
    own = fitted.kind in ("ekfac", "kfac") or not fitted.structured
    asked = fitted.settings
    curvature = fitted.blocked.curvature if own else ekfac(fitted.engine, asked.fisher, asked.seed, asked.factor_share)
    return _truncated(fitted, curvature, own, wanted)


def _truncated(fitted: Fitted, curvature: BlockDiagonal, own: bool, wanted: Compression) -> Basis:
    bases = [in_eigenbasis(block) for _, block in curvature.parts]
    masses = _masses(fitted, curvature, bases, own)
    chosen = _largest(masses, wanted.size)
    parts = []
    for (layout, _), basis, places in zip(curvature.parts, bases, chosen, strict=True):
        piece = Sided.of_eigenbasis(basis, places) if isinstance(basis, KroneckerEigen) else Picked(basis.size, places)
        parts.append((layout, piece))
    projection = BlockProjection(fitted.objective.space.size, tuple(parts))
    return Basis("eigenbasis", projection, tuple(chosen), curvature, own)


def _sketched(fitted: Fitted, wanted: Compression) -> Basis:
    """Whitened by (Λ + λ)^−½, each layer in a share of the numbers that is its share of the scores.

    With r_l numbers a layer the variance is Σ_l ‖x_l‖²‖g_l‖²/r_l in the inverse's metric: least for r_l in proportion to
    E‖g_l‖², the mass of the layer.
    """
    curvature = fitted.blocked.curvature
    bases = [in_eigenbasis(block) for _, block in curvature.parts]
    masses = _masses(fitted, curvature, bases, True)
    kept = _allotted([float(mass.sum()) for mass in masses], [len(mass) for mass in masses], wanted.size or SKETCH)
    theta, parts = fitted.objective.theta, []
    like = theta.new_zeros((), dtype=torch.promote_types(theta.dtype, torch.float32))
    whitening = zip(curvature.parts, bases, _whitening(fitted, curvature, bases), kept, strict=True)
    for place, ((layout, _), basis, scale, numbers) in enumerate(whitening):
        sides = basis if isinstance(basis, KroneckerEigen) else None
        if sides is not None:
            sides = KroneckerEigen(sides.left.to(like), sides.right.to(like), sides.values)
        parts.append((layout, Hashed.drawn(sides, scale.to(like), numbers, wanted.seed * 1009 + place)))
    return Basis("sketch", BlockProjection(fitted.objective.space.size, tuple(parts)), None, curvature, True)


def _whitening(
    fitted: Fitted, curvature: BlockDiagonal, bases: list[KroneckerEigen | Diagonal]
) -> list[Float[Tensor, "q"]]:
    """(Λ + λ)^−½ of every coordinate, zero where nothing curves; any weights would do, these spread the scores evenly."""
    chosen = fitted.blocked.chosen_damping
    dampings = damped(curvature, AUTO_DAMPING if isinstance(chosen, Filter) else chosen).parts  # pyright: ignore
    found = []
    for basis, (_, block) in zip(bases, dampings, strict=True):
        values = eigenvalues(basis).flatten().double().clamp_min(0) + getattr(block, "damping", 0.0)
        found.append(torch.where(values > 0, values.rsqrt(), 0.0))
    return found


def _allotted(masses: list[float], lengths: list[int], size: int) -> list[int]:
    """Numbers of every layer: in proportion to its mass, at least one, no more than it has coordinates."""
    total = sum(masses) or 1.0
    return [max(1, min(length, round(size * mass / total))) for mass, length in zip(masses, lengths, strict=True)]


def _masses(
    fitted: Fitted, curvature: BlockDiagonal, bases: list[KroneckerEigen | Diagonal], own: bool
) -> list[Float[Tensor, "q"]]:
    """f(Λ)·E[g²] of every coordinate of every block; E[g²] alone where nothing is inverted."""
    values = [eigenvalues(basis).flatten().double().clamp_min(0) for basis in bases]
    layouts = [layout for layout, _ in curvature.parts]
    moments = [
        (value - _penalty_in(basis, layout, fitted)).clamp_min(0)
        for value, basis, layout in zip(values, bases, layouts, strict=True)
    ]
    if fitted.kind == "identity":
        return moments
    chosen = fitted.blocked.chosen_damping if own and fitted.structured else AUTO_DAMPING
    if isinstance(chosen, Filter):
        parts = filtered(curvature, chosen).operator.parts  # pyright: ignore
        kept = [eigenvalues(in_eigenbasis(block)).flatten().double() for _, block in parts]
        return [f * moment for f, moment in zip(kept, moments, strict=True)]
    dampings = [getattr(block, "damping", 0.0) for _, block in damped(curvature, chosen).parts]  # pyright: ignore
    tiny = torch.finfo(torch.float64).tiny
    levels = zip(values, moments, dampings, strict=True)
    return [moment / (value + level).clamp_min(tiny) for value, moment, level in levels]


def _penalty_in(basis: KroneckerEigen | Diagonal, layout: Layout, fitted: Fitted) -> Float[Tensor, "q"]:
    """The penalty's part of every eigenvalue: gradients of losses have none of it."""
    entries = layout.gather(fitted.objective.penalty.diagonal.double().unsqueeze(0))[0]
    if isinstance(basis, Diagonal):
        return entries
    left, right = basis.left.double().cpu(), basis.right.double().cpu()
    return (left.square().T @ entries.view(len(left), len(right)) @ right.square()).flatten()


def _largest(masses: list[Float[Tensor, "q"]], size: int | float | None) -> list[Int[Tensor, "r"]]:
    """The coordinates with the most mass over all blocks, in rising order within each."""
    together = torch.cat(masses)
    order = together.argsort(descending=True, stable=True)
    if isinstance(size, int):
        count = min(size, len(together))
    else:
        held = together[order].square().cumsum(0)
        count = 1 + int(torch.searchsorted(held, (size or MASS) * held[-1]))
        count = min(count, len(together), MOST if size is None else len(together))
    kept = torch.zeros(len(together), dtype=torch.bool)
    kept[order[:count].cpu()] = True
    return [part.nonzero()[:, 0] for part in kept.split([len(mass) for mass in masses])]


def projected_inverse(basis: Basis, fitted: Fitted) -> BlockDiagonal:
    """LoGra's inverse: the curvature of the projected gradients, damped by the study's rule, inverted.

        (CᵀFC + λI)⁻¹,   C = L ⊗ R:  (LᵀBL) ⊗ (RᵀAR)

    EK-FAC's blocks, which are no Kronecker product, are taken as the product of their marginals.
    """
    assert basis.curvature is not None
    parts, columns = [], basis.projection.columns()
    for (_, block), (_, piece), where in zip(basis.curvature.parts, basis.projection.parts, columns, strict=True):
        parts.append((FlatLayout(basis.width, where), _projected(block, piece)))
    small = BlockDiagonal(basis.width, tuple(parts))
    chosen = fitted.blocked.chosen_damping
    found = filtered(small, chosen) if isinstance(chosen, Filter) else inverse(damped(small, chosen))
    return found.operator  # pyright: ignore


def _projected(block: LinearOperator, piece: Projection) -> LinearOperator:
    if isinstance(block, Identity):
        return Identity(piece.width)
    if isinstance(piece, Sided) and isinstance(block, Kronecker | KroneckerEigen):
        left, right = (block.left, block.right) if isinstance(block, Kronecker) else _marginals(block)
        outer, inner = piece.left.to(left), piece.right.to(right)
        return Kronecker(_even(outer.T @ left @ outer), _even(inner.T @ right @ inner))
    if isinstance(piece, Picked):
        return block
    columns = block.after(piece.dense().T.to(torch.float64))
    return Dense(_even(piece.after(columns.double())), is_symmetric=True)


def _marginals(block: KroneckerEigen) -> tuple[Tensor, Tensor]:
    """The Kronecker product whose eigenvalues have the same row and column means."""
    mean = block.values.mean().clamp_min(torch.finfo(block.values.dtype).tiny)
    left = (block.left * block.values.mean(1)) @ block.left.T
    return left, (block.right * (block.values.mean(0) / mean)) @ block.right.T


def _even(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


def _in_type(projection: BlockProjection, fitted: Fitted) -> BlockProjection:
    """Random sides in the model's own type, so that a gradient meets them as they are written."""
    theta = fitted.objective.theta
    like = theta.new_zeros((), dtype=torch.promote_types(theta.dtype, torch.float32))
    parts = []
    for layout, piece in projection.parts:
        turned = Sided(piece.left.to(like), piece.right.to(like)) if isinstance(piece, Sided) else piece
        parts.append((layout, turned))
    return BlockProjection(projection.length, tuple(parts))
