"""Damping in the curvature's own units, or in units of each block's mean eigenvalue."""

from __future__ import annotations

from dataclasses import dataclass

from upweight.errors import ConfigError
from upweight.linop import (
    BlockDiagonal,
    Damped,
    Dense,
    Diagonal,
    Identity,
    Kronecker,
    KroneckerEigen,
    LinearOperator,
)


@dataclass(frozen=True)
class Relative:
    """λ = share × the mean eigenvalue, of every block for itself where there are blocks."""

    share: float | int

    def __post_init__(self) -> None:
        if not 0 <= self.share < float("inf"):
            raise ConfigError(
                f"Relative found a share of {self.share}. Expected a number of zero or more, such as 0.1."
            )


def damped(operator: LinearOperator, damping: float | Relative) -> LinearOperator:
    """A + λI, λ read for every block."""
    if not isinstance(damping, Relative):
        return operator.damped(damping)
    if isinstance(operator, BlockDiagonal):
        return BlockDiagonal(operator.width, tuple((at, damped(block, damping)) for at, block in operator.parts))
    return operator.damped(damping.share * mean_eigenvalue(operator))


def mean_eigenvalue(operator: LinearOperator) -> float:
    """tr A / p, from what the matrix is made of."""
    match operator:
        case BlockDiagonal():
            return sum(mean_eigenvalue(block) * block.size for _, block in operator.parts) / operator.size
        case Damped():
            return mean_eigenvalue(operator.base) + operator.damping
        case KroneckerEigen():
            return float(operator.values.mean())
        case Kronecker():
            return float(operator.left.diagonal().mean() * operator.right.diagonal().mean())
        case Diagonal():
            return float(operator.entries.mean())
        case Identity():
            return 1.0
        case Dense():
            return float(operator.matrix.diagonal().mean())
    raise ConfigError(
        f"damping=Relative(...) found a {type(operator).__name__}, whose mean eigenvalue is not known. Expected a number for it."
    )
