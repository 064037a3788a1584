"""Two inverses of one matrix: the cheap one, and a sure one where the cheap one does not converge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from upweight._typing import Float, Tensor
from upweight.errors import NotConverged
from upweight.linop import LinearOperator
from upweight.solve.direct import Inverse
from upweight.solve.iterated import Iterated
from upweight.solve.verdict import Solution, Verdict


@dataclass(frozen=True)
class Fallback(Iterated):
    """A⁻¹ by ``first``; where that stops above its tolerance, by what ``otherwise`` returns, whose verdict says so."""

    first: Iterated
    otherwise: Callable[[], Inverse]

    @property
    def exact(self) -> LinearOperator:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.first.exact

    @property
    def verdict(self) -> Verdict:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.first.verdict

    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        try:
            return self.first.solve(rows)
        except NotConverged:
            return self.otherwise().solve(rows)
