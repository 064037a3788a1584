"""The stochastic Neumann series: A⁻¹ from products with minibatches, all rows together.

    x_{t+1} = x_t + P(v − x_t A_t)/σ,   x₀ = 0

for A_t of a fresh minibatch at each step, so that E A_t = A and E x_t → vA⁻¹. Without P this is LiSSA (Agarwal,
Bullins, Hazan 2017; Koh & Liang 2017), whose iterate is σ times this x: x' = v + x'(I − A_t/σ). With P, the
inverse of structured curvature, it is ASTRA. It contracts where σ exceeds half the largest eigenvalue of every
A_t, or of A_t P: of a minibatch, which can be many times that of the whole, so σ is measured on minibatches.
What is returned is the mean of the last half of the iterates, whose noise is less than that of any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, IndefiniteCurvature, NotConverged
from upweight.kernels import fast_float32
from upweight.linop import LinearOperator
from upweight.solve.iterated import Iterated
from upweight.solve.verdict import Solution, Verdict, relative_residual

TOLERANCE = 1e-2
"""Relative residual above which an answer is called unconverged: noise of one per cent in every row."""

DRAWS = 16
"""Minibatches on which the largest eigenvalue is measured; larger ones that are rarer than this have the margin."""

POWER_STEPS = 20
"""Power iterations on each: the norm is reached to a factor of p^(1/40), 1.6 for a hundred million parameters."""

MARGIN = 1.5
"""σ over the largest eigenvalue seen. The series contracts up to an eigenvalue of 2σ, three times what was seen."""

TINY = torch.finfo(torch.float64).tiny

UNASKED = Verdict("Neumann series")
"""The verdict before any row has been solved for; its damping is what ``sampled`` and ``exact`` hold."""


@dataclass(frozen=True)
class Neumann(Iterated):
    """A⁻¹ of a symmetric positive definite matrix, known by products with minibatches of it.

    Args:
        exact: A, damping included: only for the residual that is reported.
        sampled: one minibatch's A, damping included, drawn with the generator it is given.
        precondition: V ↦ V P, P symmetric positive definite; None is P = I.
        scale: σ; None is 1.5 times the largest eigenvalue met on 16 minibatches.
        steps: products with a minibatch, per repeat.
        repeats: independent series, which are averaged.
        seed: of every draw; the global random state is neither read nor changed.
        tolerance: a residual above it is called unconverged in the verdict.
        verdict: its method and damping are carried over to every answer.

    Raises:
        ConfigError: a scale, steps or repeats that cannot be meant, or ``exact`` not known to be symmetric.

    Error and cost:
        The bias falls as (1 − λ_min/σ)^(steps/2), the noise as 1/√(steps · repeats); the residual holds both and is
        never silent. steps·repeats products of k rows with minibatches, one with the exact matrix; 3·k·p numbers.
        Measuring σ takes 320 products of one row, once.
    """

    exact: LinearOperator
    sampled: Callable[[torch.Generator], LinearOperator]
    precondition: Callable[[Tensor], Tensor] | None = None
    scale: float | int | None = None
    steps: int = 1000
    repeats: int = 1
    seed: int = 0
    tolerance: float = TOLERANCE
    verdict: Verdict = UNASKED

    def __post_init__(self) -> None:
        if self.steps < 1 or self.repeats < 1:
            raise ConfigError(
                f"Neumann found steps={self.steps} and repeats={self.repeats}. Expected one or more of each; raise them."
            )
        if self.scale is not None and not 0 < self.scale < torch.inf:
            raise ConfigError(
                f"Neumann found scale={self.scale}. Expected a number above zero; pass None to have it measured."
            )
        if not self.exact.symmetric:
            raise ConfigError(
                f"Neumann found a {type(self.exact).__name__} that is not known to be symmetric. Expected a symmetric "
                "matrix; declare it, as in Dense(matrix, is_symmetric=True), or use inverse()."
            )

    @fast_float32()
    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        """V A⁻¹, with the true residual of these rows and whether it is within the tolerance.

        Raises:
            ConfigError: the scale is below half the largest eigenvalue of a minibatch; nothing was iterated.
            NotConverged: the residual is above 1, worse than the answer 0, or the iterates overflowed.
        """
        lengths = rows.double().norm(dim=1, keepdim=True).clamp_min(TINY)
        wanted = rows.double() / lengths
        scale = self.chosen_scale
        answers = [self._series(wanted, scale, generator) for generator in self._generators[1:]]
        answer = torch.stack(answers).mean(0)
        residual = relative_residual(wanted, answer, self.exact)
        if not residual <= 1:
            raise self._diverged(f"a relative residual of {residual:.2g}", scale)
        return Solution(answer * lengths, self._verdict(residual, scale))

    @cached_property
    def largest(self) -> float:
        """The largest eigenvalue of A_t, or of A_t P, met on sixteen minibatches by power iteration.

        Raises:
            IndefiniteCurvature: it is zero or not finite.
        """
        generator = self._generators[0]
        norms = [self._norm(self.sampled(generator), generator) for _ in range(DRAWS)]
        found = float(torch.tensor(norms, dtype=torch.float64).max())  # one that is not a number stays
        if not 0 < found < torch.inf:
            raise IndefiniteCurvature(
                f"the minibatch curvature has a largest eigenvalue of {found:.3g}. Expected a finite number above zero; "
                "add damping to what ``sampled`` returns, or look at the data for values that are not finite."
            )
        return found

    @cached_property
    def chosen_scale(self) -> float:
        """σ, which no minibatch met by the measurement makes diverge.

        Raises:
            ConfigError: the scale given is below half the largest eigenvalue.
        """
        if self.scale is None:
            return MARGIN * self.largest
        if self.scale < self.largest / 2:
            raise ConfigError(
                f"Neumann found scale={self.scale:.3g}, at which the series diverges: the largest eigenvalue of a "
                f"minibatch is {self.largest:.3g}. Expected a scale of {self.largest / 2:.3g} at the least; pass "
                f"scale={MARGIN * self.largest:.3g}, or None to have it measured."
            )
        return float(self.scale)

    @property
    def _generators(self) -> list[torch.Generator]:
        """One stream of chance for measuring σ and one for every repeat."""
        root = torch.Generator().manual_seed(self.seed)
        seeds = torch.randint(2**62, (1 + self.repeats,), generator=root)
        return [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def _precondition(self, rows: Tensor) -> Tensor:
        return rows if self.precondition is None else self.precondition(rows).double()

    def _series(self, wanted: Float[Tensor, "k p"], scale: float, generator: torch.Generator) -> Float[Tensor, "k p"]:
        """The mean of the last half of the iterates."""
        answer, total, half = torch.zeros_like(wanted), torch.zeros_like(wanted), self.steps // 2
        for step in range(self.steps):
            left = wanted - self.sampled(generator).after(answer).double() if step else wanted
            answer = answer + self._precondition(left) / scale
            if not bool(torch.isfinite(answer).all()):
                raise self._diverged(f"iterates that are not finite at step {step + 1}", scale)
            if step >= half:
                total += answer
        return total / (self.steps - half)

    def _norm(self, operator: LinearOperator, generator: torch.Generator) -> float:
        """‖P^½ A P^½‖ from below: w ← P(wA), lengths in the norm of P⁻¹, which no product with P^½ is needed for."""
        start = torch.randn(1, self.size, generator=generator, dtype=torch.float64)
        row = self._precondition(start)
        found = self._length(start, row)
        for _ in range(POWER_STEPS):
            product = operator.after(row / found).double()
            row = self._precondition(product)
            found = self._length(product, row)
            if not found:
                break
        return found

    def _length(self, row: Float[Tensor, "1 p"], preconditioned: Float[Tensor, "1 p"]) -> float:
        """√(y P yᵀ)."""
        squared = float((row * preconditioned).sum())
        if squared < 0:
            raise ConfigError(
                f"Neumann found a preconditioner P with yPyᵀ = {squared:.3g} for a row y. Expected P to be symmetric and "
                "positive definite; damp the curvature it inverts, or pass precondition=None."
            )
        return squared**0.5

    def _verdict(self, residual: float, scale: float) -> Verdict:
        kind = "" if self.precondition is None else "preconditioned "
        repeats = f", {self.repeats} repeats" if self.repeats > 1 else ""
        return replace(
            self.verdict,
            method=f"{kind}{self.verdict.method}, scale {scale:.3g}{repeats}",
            residual=residual,
            iterations=self.steps * self.repeats,
            converged=residual <= self.tolerance,
        )

    def _diverged(self, found: str, scale: float) -> NotConverged:
        return NotConverged(
            f"the Neumann series found {found} after {self.steps} steps at most, scale {scale:.3g}. Expected a residual "
            "below 1; raise the scale, draw larger minibatches, raise steps or repeats, or, for a matrix that may have "
            "negative eigenvalues such as a network's Hessian, take one that has none: curvature='ggn'."
        )
