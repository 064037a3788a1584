"""Exact inverses of matrices that fit: Cholesky for positive definite ones, LU for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import lapack
from scipy.sparse import linalg as sparse_linalg

from upweight._typing import Float, Tensor
from upweight.errors import IndefiniteCurvature
from upweight.linop import LinearOperator
from upweight.solve.verdict import Solution, Verdict, in_units

ILL_CONDITIONED = 1e10
"""Condition number, scales taken out, above which float64 leaves fewer than six digits."""

SINGULAR = 1e-6
"""An eigenvalue below this share of the mean is zero up to the rounding of a float32 model."""

SPECTRUM_LIMIT = 1500
"""Up to this size the whole spectrum is cheaper than an iteration for its lowest end."""


class Inverse(LinearOperator):
    """A⁻¹ as an operator, with a verdict on how it was obtained."""

    verdict: Verdict

    def project(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """Rows without what A is not inverted on: its gauge, where it has one."""
        return rows

    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        """V A⁻¹ with the verdict on these very rows; a direct method's is the same for all."""
        return Solution(self.after(rows), self.verdict)


@dataclass(frozen=True)
class CholeskyInverse(Inverse):
    """A⁻¹ = L⁻ᵀL⁻¹ for symmetric positive definite A, on the complement of the gauge directions N."""

    factor: Float[Tensor, "p p"]
    verdict: Verdict
    gauge: Float[Tensor, "g p"] | None = None

    @property
    def size(self) -> int:
        return self.factor.shape[0]

    @property
    def symmetric(self) -> bool:
        return True

    def after(self, rows: Tensor) -> Tensor:
        return torch.cholesky_solve(self.project(rows.to(self.factor.dtype)).T, self.factor).T  # (k, p)

    def project(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """Remove what lies along the gauge: it changes no output of the model."""
        return off_gauge(rows, self.gauge)

    def transpose(self) -> LinearOperator:
        return self

    @cached_property
    def dense_inverse(self) -> Float[Tensor, "p p"]:
        """A⁻¹ written out once; later products are plain matrix products."""
        inverse = torch.cholesky_inverse(self.factor)
        return inverse if self.gauge is None else self.project(self.project(inverse).T).T

    def dense(self) -> Tensor:
        return self.dense_inverse

    def _column(self, vector: np.ndarray) -> np.ndarray:
        return self.after(torch.as_tensor(vector).reshape(1, -1))[0].numpy()

    def lowest_eigenvalue(self) -> float:
        """The smallest eigenvalue of A away from the gauge."""
        if self.size <= SPECTRUM_LIMIT:
            return 1.0 / float(torch.linalg.eigvalsh(self.dense())[-1])
        shape = (self.size, self.size)
        apply = sparse_linalg.LinearOperator(shape, matvec=self._column, dtype=np.float64)  # pyright: ignore
        start = np.random.default_rng(0).standard_normal(self.size)
        return 1.0 / float(sparse_linalg.eigsh(apply, k=1, which="LM", v0=start, tol=1e-3)[0][0])  # pyright: ignore


@dataclass(frozen=True)
class LUInverse(Inverse):
    """A⁻¹ for a matrix that need not be symmetric."""

    factors: Float[Tensor, "p p"]
    pivots: Tensor
    verdict: Verdict
    transposed: bool = False

    @property
    def size(self) -> int:
        return self.factors.shape[0]

    @property
    def symmetric(self) -> bool:
        return False

    def after(self, rows: Tensor) -> Tensor:
        """V A⁻¹ solves Aᵀ x = vᵀ; the transposed inverse solves A x = vᵀ."""
        rows = rows.to(self.factors.dtype)
        return torch.linalg.lu_solve(self.factors, self.pivots, rows.T.contiguous(), adjoint=not self.transposed).T

    def transpose(self) -> LinearOperator:
        return LUInverse(self.factors, self.pivots, self.verdict, not self.transposed)

    def dense(self) -> Tensor:
        eye = torch.eye(self.size, dtype=self.factors.dtype, device=self.factors.device)
        return self.after(eye)


def off_gauge(rows: Float[Tensor, "k p"], gauge: Float[Tensor, "g p"] | None) -> Float[Tensor, "k p"]:
    """Rows without their part along the gauge."""
    if gauge is None:
        return rows
    gauge = gauge.to(rows.dtype)
    return rows - (rows @ gauge.T) @ gauge


def cholesky(
    matrix: Float[Tensor, "p p"], gauge: Float[Tensor, "g p"] | None = None, damping: float = 0.0
) -> CholeskyInverse:
    """Factor a symmetric matrix that must be positive definite away from its gauge.

    Raises:
        IndefiniteCurvature: it is not; the message gives the lowest eigenvalue and the ways out.
    """
    scale = float(matrix.diagonal().abs().mean()) or 1.0
    filled = matrix if gauge is None else matrix + scale * gauge.T @ gauge
    factor, info = torch.linalg.cholesky_ex(filled)
    positive = int(info) == 0 and bool((filled.diagonal() > 0).all())
    condition = _condition(filled, factor) if positive else np.inf
    if condition * torch.finfo(matrix.dtype).eps >= 1 / matrix.shape[0]:
        raise _indefinite(filled)
    gauges = 0 if gauge is None else len(gauge)
    verdict = _damped(Verdict("dense Cholesky", condition=condition, gauge=gauges), matrix, damping)
    found = CholeskyInverse(factor, verdict, gauge)
    return replace(found, verdict=replace(verdict, residual=_residual(found, matrix)))


def lu(matrix: Float[Tensor, "p p"], damping: float = 0.0) -> LUInverse:
    """Factor a matrix that need not be symmetric or definite, only regular.

    Raises:
        IndefiniteCurvature: it is singular to working precision.
    """
    factors, pivots, info = torch.linalg.lu_factor_ex(matrix)
    diagonal = factors.diagonal().abs()
    if int(info) or float(diagonal.min()) <= torch.finfo(matrix.dtype).eps * float(diagonal.max()):
        raise IndefiniteCurvature(
            f"the curvature matrix is singular: its smallest pivot is {float(diagonal.min()):.3g} of {float(diagonal.max()):.3g}. "
            "Expected a regular matrix; add damping, or remove parameters that no data determine."
        )
    verdict = _damped(Verdict("dense LU"), matrix, damping)
    found = LUInverse(factors, pivots, verdict)
    return replace(found, verdict=replace(verdict, residual=_residual(found, matrix)))


def _damped(verdict: Verdict, matrix: Tensor, damping: float) -> Verdict:
    """The verdict with λ in both units; the matrix already holds λ."""
    mean = float(matrix.diagonal().mean()) - damping
    return replace(verdict, damping=damping, damping_share=in_units(damping, mean))


def _residual(inverse: CholeskyInverse | LUInverse, matrix: Tensor) -> float:
    probe = torch.ones(1, inverse.size, dtype=matrix.dtype, device=matrix.device)
    probe[:, 1::2] = -1.0
    probe = inverse.project(probe) if isinstance(inverse, CholeskyInverse) else probe
    return float(
        (inverse.after(probe) @ matrix - probe).norm() / probe.norm().clamp_min(torch.finfo(matrix.dtype).tiny)
    )


def _condition(matrix: Float[Tensor, "p p"], factor: Float[Tensor, "p p"]) -> float:
    """‖A‖₁‖A⁻¹‖₁ of the matrix scaled to a unit diagonal, from its factor, by LAPACK's estimator.

    Cholesky does not mind the scales of the coordinates, so neither should its condition number.
    """
    scale = matrix.diagonal().sqrt()
    norm = max(float((part.abs() / scale).sum(1).div(s).max()) for part, s in _strips(matrix, scale))
    scaled = (factor / scale[:, None]).cpu().numpy()
    rcond, _ = lapack.dpocon(scaled, norm, uplo="L")  # pyright: ignore
    return 1.0 / max(float(rcond), np.finfo(float).tiny)


def _strips(matrix: Tensor, scale: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of a matrix a few at a time, with their scales."""
    yield from zip(matrix.split(STRIP), scale.split(STRIP), strict=True)


STRIP = 512
"""Rows looked at together, so that nothing of size p² is copied."""


def _indefinite(matrix: Tensor) -> IndefiniteCurvature:
    lowest = lowest_eigenvalue(matrix)
    scale = float(matrix.diagonal().mean())
    needed = max(2 * abs(lowest), 1e-3 * abs(scale))
    if abs(lowest) <= SINGULAR * abs(scale):
        found = f"the curvature matrix is singular: its lowest eigenvalue is {lowest:.3g} (mean eigenvalue {scale:.3g}), so some direction of the parameters changes no output"
    else:
        found = f"the curvature matrix is not positive definite: its lowest eigenvalue is {lowest:.3g} (mean eigenvalue {scale:.3g})"
    return IndefiniteCurvature(
        f"{found}. Expected every eigenvalue clearly above zero. For a network use curvature='ekfac', or curvature='ggn' with some damping, neither of "
        f"which is ever negative. Else pass the penalty of the training run, penalty=uw.L2(weight_decay), train further, or add damping={needed or scale or 1.0:.2g} or more."
    )


def lowest_eigenvalue(matrix: Float[Tensor, "p p"]) -> float:
    """The smallest eigenvalue of a symmetric matrix."""
    if matrix.shape[0] <= SPECTRUM_LIMIT:
        return float(torch.linalg.eigvalsh(matrix)[0])
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    found = sparse_linalg.eigsh(matrix.cpu().numpy(), k=1, which="SA", v0=start, tol=1e-2)  # pyright: ignore
    return float(found[0][0])
