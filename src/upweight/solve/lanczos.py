"""A low-rank inverse by Lanczos: the eigenvalues of largest size, from products with one row at a time.

From a random unit row q₁, with q₀ = 0:

    β_j q_{j+1} = q_j A − α_j q_j − β_{j−1} q_{j−1},   α_j = q_j A q_jᵀ

every q kept orthogonal to all before it. The tridiagonal matrix of α and β has the Ritz values θ as
eigenvalues; its eigenvectors turn the rows q into Ritz vectors. Arnoldi's iteration, which influence functions
were first scaled up with (Schioppa et al. 2022), is this one when the matrix is symmetric.
"""

from __future__ import annotations

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, IndefiniteCurvature
from upweight.linop import LinearOperator
from upweight.solve.low_rank import LowRankInverse, check_finite, check_request, with_trace
from upweight.solve.verdict import Verdict

SPARE = 20
"""Steps beyond twice the rank: the last Ritz pairs of a run are not yet eigenpairs."""

BROKEN = 1e-10
"""A next row shorter than this share of the matrix ends an invariant space: what is left is rounding."""

SINGULAR = 1e-12
"""A damped Ritz value below this share of the largest is zero up to rounding in float64."""


def lanczos(
    operator: LinearOperator,
    rank: int,
    steps: int | None = None,
    damping: float | int = 0.0,
    complement: str = "zero",
    seed: int = 0,
) -> LowRankInverse:
    """(A + λI)⁻¹ on the ``rank`` eigenvectors of largest |eigenvalue|, and 1/λ or nothing outside.

        (A + λI)⁻¹ ≈ Uᵀ(Θ + λ)⁻¹U  [ + (I − UᵀU)/λ ]

    Args:
        operator: A, symmetric, without its damping.
        rank: how many Ritz pairs are kept.
        steps: rows of the Krylov space, at least ``rank``; None is twice the rank and 20 more, p at most.
        damping: λ.
        complement: ``"zero"`` leaves the rest of the space out, ``"damping"`` takes A as zero there.
        seed: of the start, of restarts, and of the trace estimate.

    Raises:
        ConfigError: a rank, steps, damping or complement that cannot be meant, or A not known to be symmetric.
        NumericalError: a product that is not finite.
        IndefiniteCurvature: a Ritz value that is kept has θ + λ ≤ 0.

    Error and cost:
        The residual of a solve is measured on its rows; with ``complement="zero"`` it is at least the part of a row
        outside U. ``steps`` products of one row, 2·steps²·p operations to keep rows orthogonal, steps·p numbers.
        One start sees one direction of a repeated eigenvalue until its invariant space ends and a new row starts.
    """
    check_request("lanczos", operator, rank, damping)
    steps = min(operator.size, 2 * rank + SPARE) if steps is None else min(steps, operator.size)
    if steps < rank:
        raise ConfigError(f"lanczos found steps={steps} for rank={rank}. Expected at least the rank; raise steps.")
    _check_complement(complement, damping)
    generator = torch.Generator().manual_seed(seed)
    ritz, basis = ritz_pairs(operator, steps, generator)
    kept = ritz.abs().argsort(descending=True)[:rank]
    values, vectors = ritz[kept], basis[kept]
    _check_positive(values, float(damping))
    verdict = Verdict(f"Lanczos, rank {rank} of {operator.size}", iterations=len(basis), damping=float(damping))
    verdict = with_trace(verdict, operator, vectors, float(values.sum()), seed)
    tail = 1 / damping if complement == "damping" else 0.0
    return LowRankInverse(vectors, values + damping, tail, operator.damped(damping), verdict)


def ritz_pairs(
    operator: LinearOperator, steps: int, generator: torch.Generator
) -> tuple[Float[Tensor, "r"], Float[Tensor, "r p"]]:
    """Ritz values, and Ritz vectors as orthonormal rows, of a Krylov space of ``steps`` rows."""
    basis = torch.zeros(steps, operator.size, dtype=torch.float64)
    alpha, beta = torch.zeros(steps, dtype=torch.float64), torch.zeros(steps, dtype=torch.float64)
    fresh, size = _new_row(basis[:0], generator), 0.0
    for j in range(steps):
        basis[j] = fresh
        product = operator.after(fresh.unsqueeze(0))[0].double()
        check_finite("lanczos", product)
        alpha[j] = product @ fresh
        size = max(size, float(product.norm()))
        if j + 1 == steps:
            break
        left = _orthogonal(product, basis[: j + 1])
        length = float(left.norm())
        if length <= BROKEN * size:  # an invariant space: go on from a new random row, coupled to nothing
            fresh = _new_row(basis[: j + 1], generator)
        else:
            beta[j], fresh = length, left / length
    small = torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1)
    values, vectors = torch.linalg.eigh(small)
    return values, vectors.T @ basis


def _orthogonal(row: Float[Tensor, "p"], basis: Float[Tensor, "j p"]) -> Float[Tensor, "p"]:
    """A row without its part in the span; twice, since once leaves rounding of the length that was removed."""
    for _ in range(2):
        row = row - (basis @ row) @ basis
    return row


def _new_row(basis: Float[Tensor, "j p"], generator: torch.Generator) -> Float[Tensor, "p"]:
    """A random unit row orthogonal to the basis, which does not fill the space."""
    row = _orthogonal(torch.randn(basis.shape[1], generator=generator, dtype=torch.float64), basis)
    row = _orthogonal(row / row.norm(), basis)
    return row / row.norm()


def _check_complement(complement: str, damping: float) -> None:
    if complement not in ("zero", "damping"):
        raise ConfigError(f"lanczos found complement={complement!r}. Expected 'zero' or 'damping'; pass one of them.")
    if complement == "damping" and not damping:
        raise ConfigError(
            "lanczos found complement='damping' and damping=0. Expected a damping above zero, whose inverse fills the "
            "rest of the space; pass one, or complement='zero'."
        )


def _check_positive(values: Float[Tensor, "r"], damping: float) -> None:
    lowest, largest = float(values.min()) + damping, float(values.abs().max())
    if lowest <= SINGULAR * largest:
        needed = damping + max(2 * abs(lowest), 1e-3 * largest)
        raise IndefiniteCurvature(
            f"lanczos found a Ritz value of {lowest:.3g}, damping included, among the {len(values)} it keeps (largest "
            f"{largest:.3g}). Expected each above zero; pass damping={needed:.2g} or more, or a lower rank."
        )
