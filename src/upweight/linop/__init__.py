"""Square matrices known by their products."""

from upweight.linop.operator import Damped, LinearOperator, Scaled, Sum, identity
from upweight.linop.structured import Dense, Diagonal

__all__ = ["Damped", "Dense", "Diagonal", "LinearOperator", "Scaled", "Sum", "identity"]
