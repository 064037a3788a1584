"""Spectral filters: f(A) = Q f(Λ) Qᵀ of a symmetric matrix A = Q Λ Qᵀ, block by block where there are blocks.

Ridge     f(Λ) = 1/(Λ + λ)             the damped inverse
Segment   f(Λ) = (1 − e^{−rΛ})/Λ       one segment of training with step sizes that sum to r
Mixture   f(Λ) = Σ_k β_k/(Λ + λ_k)     damped inverses, weighted
Calibrated  c·f(Λ)                     any of these on a measured scale

A filter changes eigenvalues only, so one eigenbasis serves every filter. Eigenvalues below zero are taken as
zero before the filter, and the verdict says how many there were: curvature that is filtered is positive
semi-definite but for rounding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, IndefiniteCurvature
from upweight.linop import BlockDiagonal, Damped, Dense, LinearOperator
from upweight.solve.inverse import Inverted
from upweight.solve.low_rank import check_finite
from upweight.solve.spectrum import eigenvalues, in_eigenbasis, with_eigenvalues
from upweight.solve.verdict import Verdict, relative_residual


class Filter(ABC):
    """A function f of the eigenvalues. ``relative`` measures its λ, or 1/rate, in mean eigenvalues of each block."""

    relative: bool

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in a verdict."""

    @abstractmethod
    def of(self, values: Float[Tensor, "..."], unit: float) -> Float[Tensor, "..."]:
        """f(Λ) of eigenvalues Λ ≥ 0; one of its own units is ``unit`` of theirs."""

    def damping_in(self, unit: float) -> float:
        """λ in the matrix's own units, where f is the inverse of A + λI; zero where it is not of that form."""
        return 0.0


@dataclass(frozen=True)
class Ridge(Filter):
    """f(Λ) = 1/(Λ + λ): the same as ``inverse(operator.damped(λ))``.

    Args:
        damping: λ ≥ 0.
        relative: λ is a share of each block's mean eigenvalue, those below zero counted as zero.

    Raises:
        ConfigError: λ is negative or not finite.
    """

    damping: float | int
    relative: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.damping < math.inf:
            raise ConfigError(f"Ridge found a damping of {self.damping}. Expected zero or more, such as 0.1.")

    @property
    def name(self) -> str:
        return f"ridge with λ = {self.damping:.3g}{_units(self.relative)}"

    def of(self, values: Tensor, unit: float) -> Tensor:
        shifted = values + self.damping_in(unit)
        if not bool((shifted > 0).all()):
            raise IndefiniteCurvature(
                f"Ridge found an eigenvalue of {float(shifted.min()):.3g}, damping included. Expected every one above "
                "zero; give the filter a damping, such as Ridge(0.1, relative=True)."
            )
        return 1 / shifted

    def damping_in(self, unit: float) -> float:
        return self.damping * unit


@dataclass(frozen=True)
class Segment(Filter):
    """f(Λ) = (1 − e^{−rΛ})/Λ, which is r at Λ = 0: gradient flow from the start for a time r (SOURCE, Bae et al. 2024).

    Args:
        rate: r, the sum of the learning rates of the segment, ηK for K equal steps.
        relative: 1/r is in units of each block's mean eigenvalue, those below zero counted as zero.

    Raises:
        ConfigError: r is not above zero, or not finite.
    """

    rate: float | int
    relative: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ConfigError(
                f"Segment found a rate of {self.rate}. Expected learning rate times steps, a number above zero."
            )

    @property
    def name(self) -> str:
        return f"segment with 1/rate = {1 / self.rate:.3g}{_units(self.relative)}"

    def of(self, values: Tensor, unit: float) -> Tensor:
        rate = self.rate / unit
        turned = rate * values
        tiny = torch.finfo(turned.dtype).tiny
        share = -torch.expm1(-turned) / turned.clamp_min(tiny)
        return rate * torch.where(turned > tiny, share, torch.ones_like(share))


@dataclass(frozen=True)
class Mixture(Filter):
    """f(Λ) = Σ_k β_k/(Λ + λ_k).

    Args:
        terms: pairs (β_k, λ_k), β_k ≥ 0 and λ_k > 0.
        relative: every λ_k is a share of each block's mean eigenvalue, those below zero counted as zero.

    Raises:
        ConfigError: no term, a β below zero, or a λ that is not above zero.
    """

    terms: tuple[tuple[float | int, float | int], ...]
    relative: bool = False

    def __post_init__(self) -> None:
        for weight, damping in self.terms:
            if not (0 <= weight < math.inf and 0 < damping < math.inf):
                raise ConfigError(
                    f"Mixture found a term of weight {weight} and damping {damping}. Expected a weight of zero or more "
                    "and a damping above zero; leave such terms out."
                )
        if not any(weight for weight, _ in self.terms):
            raise ConfigError(
                f"Mixture found {len(self.terms)} terms, none with a weight above zero. Expected at least one; "
                "pass pairs (weight, damping), such as ((0.5, 0.1), (0.5, 1.0))."
            )

    @property
    def name(self) -> str:
        return f"mixture of {len(self.terms)} ridges{_units(self.relative)}"

    def of(self, values: Tensor, unit: float) -> Tensor:
        total = torch.zeros_like(values)
        for weight, damping in self.terms:
            total = total + weight / (values + damping * unit)
        return total


@dataclass(frozen=True)
class Calibrated(Filter):
    """c · f(Λ): another filter on a scale that was measured, so that sizes are right and not only ranks.

    Args:
        base: f.
        factor: c > 0.

    Raises:
        ConfigError: c is not above zero, or not finite.
    """

    base: Filter
    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ConfigError(f"Calibrated found a factor of {self.factor}. Expected a number above zero, such as 0.5.")

    @property
    def relative(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.relative

    @property
    def name(self) -> str:
        return f"{self.base.name}, times {self.factor:.3g}"

    def of(self, values: Tensor, unit: float) -> Tensor:
        return self.factor * self.base.of(values, unit)


def filtered(operator: LinearOperator, filter: Filter) -> Inverted:
    """f(A) for a symmetric matrix whose eigenbasis is known, or small enough to be found.

        f(A) = Q f(Λ) Qᵀ

    Args:
        operator: Kronecker (in an eigenbasis or not), diagonal, identity, dense symmetric, or blocks of these;
            a damped one has its eigenvalues moved by λ first.
        filter: f.

    Returns:
        f(A), of the same kind as A. The residual is measured for ``Ridge`` on one row of signs; the other filters
        are inverses of no A + λI, so theirs is None.

    Raises:
        ConfigError: the eigenbasis is not known, or A is not symmetric.
        NumericalError: A is not finite.
        IndefiniteCurvature: f has no value at an eigenvalue, or a relative filter met a block that is zero.

    Error and cost:
        Exact in the eigenbasis. Entrywise there; a dense block costs one eigendecomposition, p³, in float64.

    Example:
        >>> import torch
        >>> from upweight.linop import Diagonal
        >>> filtered(Diagonal(torch.tensor([1.0, 3.0])), Ridge(1.0)).dense().diagonal().tolist()
        [0.5, 0.25]
    """
    if isinstance(operator, BlockDiagonal):
        return _blockwise(operator, filter)
    basis = in_eigenbasis(operator)
    values = eigenvalues(basis)
    check_finite("a filter", values)
    below, values = int((values < 0).sum()), values.clamp_min(0)
    mean = float(values.double().mean())
    if filter.relative and not mean > 0:
        raise IndefiniteCurvature(
            f"a relative filter found a block with a mean eigenvalue of {mean:.3g}. Expected one above zero to measure "
            "in; leave the block out, or pass relative=False."
        )
    unit = mean if filter.relative else 1.0
    found = with_eigenvalues(basis, filter.of(values, unit))
    clipped = f", {below} eigenvalues below zero taken as zero" if below else ""
    damping = filter.damping_in(unit)
    whole = Dense(found.dense(), is_symmetric=True) if _is_dense(operator) else found
    verdict = Verdict(
        f"the filter {filter.name}, entrywise in the eigenbasis{clipped}",
        residual=_measured(found, with_eigenvalues(basis, values + damping)) if isinstance(filter, Ridge) else None,
        damping=damping,
        damping_share=damping / mean if damping and mean else 0.0,
    )
    return Inverted(whole, verdict)


def _blockwise(operator: BlockDiagonal, filter: Filter) -> Inverted:
    found = [(layout, filtered(block, filter)) for layout, block in operator.parts]
    verdicts = [block.verdict for _, block in found]
    residuals = [verdict.residual for verdict in verdicts if verdict.residual is not None]
    methods = dict.fromkeys(verdict.method for verdict in verdicts)
    verdict = Verdict(
        f"{len(found)} blocks: {'; '.join(methods)}",
        residual=max(residuals, default=None),
        damping=max((verdict.damping for verdict in verdicts), default=0.0),
        damping_share=sum(verdict.damping_share for verdict in verdicts) / max(1, len(verdicts)),
    )
    return Inverted(BlockDiagonal(operator.width, tuple((at, block.operator) for at, block in found)), verdict)


def _is_dense(operator: LinearOperator) -> bool:
    return isinstance(operator.base if isinstance(operator, Damped) else operator, Dense)


def _measured(inverse: LinearOperator, operator: LinearOperator) -> float:
    """The residual of one row of alternating signs."""
    signs = torch.ones(1, operator.size, dtype=torch.float64)
    signs[:, 1::2] = -1.0
    return relative_residual(signs, inverse.after(signs), operator)


def _units(relative: bool) -> str:
    return " of the mean eigenvalue" if relative else ""
