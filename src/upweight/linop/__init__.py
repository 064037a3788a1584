"""Square matrices known by their products."""

from upweight.linop.blocks import BlockDiagonal
from upweight.linop.kronecker import Kronecker, KroneckerEigen
from upweight.linop.operator import Damped, LinearOperator, Scaled, Sum
from upweight.linop.structured import Dense, Diagonal, Identity

__all__ = [
    "BlockDiagonal",
    "Damped",
    "Dense",
    "Diagonal",
    "Identity",
    "Kronecker",
    "KroneckerEigen",
    "LinearOperator",
    "Scaled",
    "Sum",
]
