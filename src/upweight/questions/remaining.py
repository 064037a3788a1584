"""The Newton step on what remains of a network, whose curvature is made of blocks or known by its products.

    δ = −(P⁻¹ + ΔH)⁻¹ Δψ,   ΔH = Σ εᵢJᵢᵀΛᵢJᵢ + ρ∇²r

P is the damped blocks' inverse; ΔH of a group has rank |S|·o at most, so conjugate gradients preconditioned by P take
few steps. Nothing of size p × p is formed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from upweight._typing import Float, Tensor
from upweight.curvature.products import change_products, curvature_products
from upweight.errors import ConfigError, NotConverged
from upweight.fitted import Fitted
from upweight.linop import BlockDiagonal, Damped, Dense, Diagonal, Kronecker, KroneckerEigen, LinearOperator, Sum
from upweight.objective import Examples
from upweight.questions.answer import Answer
from upweight.solve import BlockCG, Verdict

RITZ_STEPS = 24
"""Products that look for a direction along which nothing remains; extreme eigenvalues show first."""

FLOOR = 1e-9
"""An eigenvalue of P(P⁻¹ + ΔH) this low leaves nothing to solve with."""


@dataclass(frozen=True)
class Remaining:
    """A fitted network's curvature P⁻¹, ready to be changed.

    Attributes:
        refused: names of changes that left nothing positive definite, and stayed at first order.
        solved: how the others' systems were solved.
    """

    fitted: Fitted
    refused: list[str] = field(default_factory=list)
    solved: list[Verdict] = field(default_factory=list)

    @cached_property
    def curvature(self) -> LinearOperator:
        """P⁻¹ in float64: the damped blocks, or the damped Gauss-Newton matrix by its products.

        Raises:
            ConfigError: the Hessian of a network, which may be indefinite before anything is left out.
        """
        fitted = self.fitted
        if fitted.structured:
            return in_double(fitted.blocked.undone)
        if fitted.kind != "ggn":
            raise ConfigError(
                f"a Newton step on what remains found curvature={fitted.kind!r} with solver={fitted.settings.solver_name!r}. Expected curvature='ggn' with it, or order='first'."
            )
        return curvature_products(fitted.engine, "ggn", fitted.blocked.damping, torch.float64)

    def first(self, gradient: Float[Tensor, "p"]) -> Tensor:
        """−Δψ P."""
        found = self.fitted.row_inverse(1).solve(gradient.unsqueeze(0))
        found.verdict.warn()
        return -found.rows[0].double()

    def move(self, gradient: Float[Tensor, "p"], change: LinearOperator, what: str) -> Tensor:
        """δ; to first order, and counted as refused, where what remains is not positive definite.

        Raises:
            NotConverged: conjugate gradients ran out of steps.
        """
        before = self.curvature
        after, precondition = Sum(before, change), self.fitted.blocked.inverse.operator
        if lowest(after, precondition, before, gradient) <= FLOOR:
            self.refused.append(what)
            return self.first(gradient)
        solver = BlockCG(after, after, lambda rows: precondition.after(rows).double())
        try:
            found = solver.solve(-gradient.unsqueeze(0))
        except NotConverged as error:
            raise NotConverged(f"after {what}, {error} order='first' needs no such solve.") from None
        self.solved.append(found.verdict)
        return found.rows[0]

    def said(self, answer: Answer) -> Answer:
        """An answer of these moves: how many were refused, and how the rest were solved."""
        method = answer.verdict.method
        if self.solved:
            worst = max(one.residual or 0.0 for one in self.solved)
            steps = max(one.iterations for one in self.solved)
            method += f"; what remains by conjugate gradients on it, up to {steps} steps, residual {worst:.1e}"
        order = "first" if self.refused and not self.solved else answer.order
        return replace(answer, order=order, refused=len(self.refused), verdict=replace(answer.verdict, method=method))


def change_of(fitted: Fitted, examples: Examples, amounts: Float[Tensor, "s"], share: float) -> LinearOperator:
    """ΔH of amounts of weight and of the penalty's share that goes with them."""
    diagonal = share * fitted.objective.penalty.diagonal.to(fitted.weights)
    return change_products(fitted.engine, examples, amounts, diagonal)


def lowest(
    after: LinearOperator, precondition: LinearOperator, before: LinearOperator, start: Float[Tensor, "p"]
) -> float:
    """The lowest Ritz value of M·after, M ≈ before⁻¹, in a Krylov space orthonormal under ``after``'s own scale.

    Its sign is what counts, and by Sylvester's law that is the sign of ``after`` itself, whatever M.
    """
    noise = torch.randn(len(start), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(start)
    row = precondition.after((start / start.norm().clamp_min(1e-300) + noise / noise.norm()).unsqueeze(0)).double()
    basis, images, metric, found = [], [], [], torch.inf
    for _ in range(min(RITZ_STEPS, len(start))):
        weighed = before.after(row)
        length = float((row * weighed).sum().clamp_min(0)) ** 0.5
        if length < 1e-10:
            break
        basis.append(row / length)
        metric.append(weighed / length)
        images.append(after.after(basis[-1]))
        projected = torch.cat(images) @ torch.cat(basis).T
        found = float(torch.linalg.eigvalsh((projected + projected.T) / 2)[0])
        if found <= FLOOR:
            break  # one such direction is enough
        row = precondition.after(images[-1]).double()
        row = row / row.norm().clamp_min(1e-300)
        for _ in range(2):
            row = row - (row @ torch.cat(metric).T) @ torch.cat(basis)
    return found


def in_double(operator: LinearOperator) -> LinearOperator:
    """The same blocks in float64, so that residuals mean something."""
    match operator:
        case BlockDiagonal():
            return BlockDiagonal(operator.width, tuple((at, in_double(block)) for at, block in operator.parts))
        case Damped():
            return Damped(in_double(operator.base), operator.damping)
        case KroneckerEigen():
            return KroneckerEigen(operator.left.double(), operator.right.double(), operator.values.double())
        case Kronecker():
            return Kronecker(operator.left.double(), operator.right.double())
        case Diagonal():
            return Diagonal(operator.entries.double())
        case Dense():
            return Dense(operator.matrix.double(), operator.is_symmetric)
    return operator
