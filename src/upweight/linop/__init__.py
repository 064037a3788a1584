"""Matrices known by their products: square ones, and projections to fewer numbers."""

from upweight.linop.blocks import BlockDiagonal
from upweight.linop.hashed import Hashed
from upweight.linop.kronecker import Kronecker, KroneckerEigen
from upweight.linop.operator import Damped, LinearOperator, Scaled, Sum
from upweight.linop.projection import BlockProjection, Gaussian, Picked, Projection, Sided, two_sided
from upweight.linop.structured import Dense, Diagonal, Identity

__all__ = [
    "BlockDiagonal",
    "BlockProjection",
    "Damped",
    "Dense",
    "Diagonal",
    "Gaussian",
    "Hashed",
    "Identity",
    "Kronecker",
    "KroneckerEigen",
    "LinearOperator",
    "Picked",
    "Projection",
    "Scaled",
    "Sided",
    "Sum",
    "two_sided",
]
