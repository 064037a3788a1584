"""A ↦ A⁻¹, again an operator, carrying how it went."""

from upweight.solve.direct import CholeskyInverse, Inverse
from upweight.solve.inverse import inverse
from upweight.solve.verdict import Verdict

__all__ = ["CholeskyInverse", "Inverse", "Verdict", "inverse"]
