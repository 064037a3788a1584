"""The exact curvature written out, dense in float64, and its inverse by Cholesky."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from upweight._typing import Float, Tensor
from upweight.curvature import Relative, ggn, hessian, mean_eigenvalue, shift_gauge
from upweight.errors import BudgetError, ConfigError, IndefiniteCurvature
from upweight.fitted.settings import STRUCTURED, Settings
from upweight.gradients import Engine
from upweight.linop import Dense
from upweight.router import dense_bytes
from upweight.solve import CholeskyInverse, Filter, LUInverse, inverse


@dataclass(frozen=True)
class Exact:
    """H or the Gauss-Newton matrix of an engine, each of its inverses computed once.

    Attributes:
        kind: the study's curvature, resolved: 'hessian', 'ggn', or the name of a structured one, which is refused.
        words: what the verdict adds to its method.
    """

    engine: Engine
    settings: Settings
    kind: str
    words: str = ""

    @property
    def fits(self) -> bool:
        """True when the dense road is within the budget."""
        return dense_bytes(self.engine.objective.space.size) <= self.settings.budget

    @cached_property
    def curvature(self) -> Dense:
        """H, or the Gauss-Newton matrix where that was asked for, without damping.

        Raises:
            BudgetError: it does not fit.
        """
        if self.kind in STRUCTURED:
            raise ConfigError(
                f"this question needs the exact curvature, and the study has curvature={self.kind!r}. Expected 'hessian' or 'ggn', with parameters that fit: track fewer of them, or ask for drop, drop_group, upweight or self_influence."
            )
        self._require_memory()
        return ggn(self.engine) if self.kind == "ggn" else hessian(self.engine)

    @cached_property
    def damping(self) -> float:
        """λ in the curvature's own units; 'auto' adds none."""
        chosen = self.settings.damping
        if isinstance(chosen, Filter):
            raise ConfigError(
                f"damping={chosen!r} is a filter, and the exact curvature has no eigenbasis to filter in. Expected a number or uw.Relative(share), or curvature='ekfac'."
            )
        if isinstance(chosen, Relative):
            return chosen.share * mean_eigenvalue(self.curvature)
        return 0.0 if chosen == "auto" else float(chosen)  # pyright: ignore

    @cached_property
    def gauge(self) -> Float[Tensor, "g p"] | None:
        """Directions that change no output."""
        return None if self.damping else shift_gauge(self.engine.objective, self.curvature)

    @cached_property
    def inverse(self) -> CholeskyInverse | LUInverse:
        """(H + λI)⁻¹.

        Raises:
            IndefiniteCurvature: H + λI is not positive definite.
        """
        return self.inverse_with(0.0)

    @cached_property
    def definite(self) -> bool:
        """Whether H + λI can be inverted by Cholesky."""
        try:
            return self.inverse is not None
        except IndefiniteCurvature:
            return False

    def inverse_with(self, share: float) -> CholeskyInverse | LUInverse:
        """(H + λI + ρ∇²r)⁻¹; the last one asked for is kept."""
        if share not in self._inverses:
            operator = self.curvature if not share else self._with_penalty(share)
            for old in [key for key in self._inverses if key]:
                del self._inverses[old]
            found = inverse(operator.damped(self.damping), self.gauge)
            assert isinstance(found, CholeskyInverse | LUInverse)
            verdict = replace(found.verdict, method=found.verdict.method + self.words)
            self._inverses[share] = replace(found, verdict=verdict)
        return self._inverses[share]

    def _with_penalty(self, share: float) -> Dense:
        matrix = self.curvature.matrix.clone()
        matrix.diagonal().add_(share * self.engine.objective.penalty.diagonal.to(matrix))
        return Dense(matrix, is_symmetric=not self.engine.objective.saddle)

    def _require_memory(self) -> None:
        """Refuse a dense matrix that does not fit, before it is formed."""
        if not self.fits:
            size = self.engine.objective.space.size
            needed = dense_bytes(size)
            raise BudgetError(
                f"p = {size:,} parameters: the exact Hessian, its factor and its inverse need {needed:,} bytes ({needed / 2**30:,.1f} GiB); "
                f"expected at most the budget of {self.settings.budget:,} bytes. Track fewer parameters (parameters='head.*'), raise memory=, or, "
                "for a model linear in its parameters, ask for order='first' with solver='block_cg'."
            )

    @cached_property
    def _inverses(self) -> dict[float, CholeskyInverse | LUInverse]:
        return {}
