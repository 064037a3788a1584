"""A ↦ A⁻¹, again an operator, carrying how it went."""

from upweight.solve.cg import BlockCG
from upweight.solve.direct import CholeskyInverse, Inverse
from upweight.solve.inverse import Inverted, inverse
from upweight.solve.verdict import Solution, Verdict

__all__ = ["BlockCG", "CholeskyInverse", "Inverse", "Inverted", "Solution", "Verdict", "inverse"]
