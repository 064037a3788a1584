"""Randomized Nyström: a low-rank positive semi-definite matrix from one product with random rows.

    A ≈ (ΩA)ᵀ (ΩAΩᵀ)⁻¹ (ΩA) = Uᵀ Λ U,   Ω (r, p) orthonormal

With Y = ΩA + νΩ and LLᵀ = YΩᵀ, the rows of L⁻¹Y have the singular values √(Λ + ν) and right vectors U; the shift
ν, of the size of rounding, keeps the Cholesky factor in existence (Frangella, Tropp & Udell 2023, algorithm 2.1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, IndefiniteCurvature
from upweight.linop import LinearOperator
from upweight.solve.low_rank import LowRankInverse, check_finite, check_request, with_trace
from upweight.solve.verdict import Verdict


def nystrom(operator: LinearOperator, rank: int, damping: float | int, seed: int = 0) -> LowRankInverse:
    """(A_nys + λI)⁻¹, A symmetric positive semi-definite.

        (A_nys + λI)⁻¹ = Uᵀ(Λ + λ)⁻¹U + (I − UᵀU)/λ

    Args:
        operator: A, without its damping.
        rank: r, rows of the sketch.
        damping: λ, above zero.
        seed: of the sketch and of the trace estimate.

    Raises:
        ConfigError: a rank or damping that cannot be meant, or A not known to be symmetric.
        NumericalError: a product that is not finite.
        IndefiniteCurvature: A is not positive semi-definite on the sketch.

    Error and cost:
        Exact when the rank of A is at most r; else A_nys ≼ A, short by the order of the eigenvalues beyond r. One
        product of r rows, one of 8 for the trace, 4·r²·p operations, r·p numbers.
    """
    _check(operator, "nystrom", rank, damping)
    basis, values, _ = sketch(operator, rank, seed)
    verdict = Verdict(f"Nyström, rank {rank} of {operator.size}", damping=float(damping))
    verdict = with_trace(verdict, operator, basis, float(values.sum()), seed + 1)
    return LowRankInverse(basis, values + damping, 1 / damping, operator.damped(damping), verdict)


def nystrom_preconditioner(
    operator: LinearOperator, rank: int, damping: float | int, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """V ↦ V P⁻¹ for conjugate gradients on A + μI: the r directions are brought down to the level of the rest.

        P⁻¹ = (λ_r + μ) Uᵀ(Λ + μ)⁻¹U + (I − UᵀU)

    Args:
        operator: A, without its damping.
        rank: r.
        damping: μ, above zero.
        seed: of the sketch.

    Raises:
        ConfigError, NumericalError, IndefiniteCurvature: as ``nystrom``.

    Error and cost:
        Rows come back in the precision of A's products. The condition number that is left is about
        1 + ‖A − A_nys‖/μ, at most 28 on average when r is twice the effective dimension (theorem 1.1 of the paper).
    """
    _check(operator, "nystrom_preconditioner", rank, damping)
    basis, values, dtype = sketch(operator, rank, seed)
    lowered = ((values.min() + damping) / (values + damping) - 1).to(dtype)
    basis = basis.to(dtype)

    def precondition(rows: Tensor) -> Tensor:
        rows = rows.to(dtype)
        return rows + (rows @ basis.T * lowered) @ basis

    return precondition


def sketch(
    operator: LinearOperator, rank: int, seed: int
) -> tuple[Float[Tensor, "r p"], Float[Tensor, "r"], torch.dtype]:
    """U, Λ in descending order, and the precision of A's products, in which U is accurate.

    Raises:
        IndefiniteCurvature: ΩAΩᵀ is not positive semi-definite.
    """
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(operator.size, rank, generator=generator, dtype=torch.float64)
    omega = torch.linalg.qr(gaussian).Q.T.contiguous()  # (r, p)
    products = operator.after(omega)
    check_finite("the Nyström sketch", products)
    dtype, products = products.dtype, products.double()
    shift = operator.size**0.5 * torch.finfo(dtype).eps * float(torch.linalg.matrix_norm(products, 2))
    shifted = products + shift * omega
    core = shifted @ omega.T
    core = (core + core.T) / 2
    factor, info = torch.linalg.cholesky_ex(core)
    if int(info):
        lowest = float(torch.linalg.eigvalsh(core)[0]) - shift
        raise IndefiniteCurvature(
            f"the Nyström sketch of the curvature has an eigenvalue of {lowest:.3g}. Expected none below zero; use a "
            "positive semi-definite curvature such as 'ggn', or lanczos() with a damping above it."
        )
    root = torch.linalg.solve_triangular(factor, shifted, upper=False)  # (r, p)
    _, singular, basis = torch.linalg.svd(root, full_matrices=False)
    return basis, (singular.square() - shift).clamp_min(0), dtype


def _check(operator: LinearOperator, name: str, rank: int, damping: float) -> None:
    check_request(name, operator, rank, damping)
    if not damping:
        raise ConfigError(
            f"{name} found damping=0. Expected a number above zero, whose inverse fills the space that the sketch "
            "leaves; pass one such as 1e-3, or use lanczos(complement='zero')."
        )
