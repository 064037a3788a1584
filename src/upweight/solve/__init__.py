"""A ↦ A⁻¹, again an operator, carrying how it went."""

from upweight.solve.cg import BlockCG
from upweight.solve.direct import CholeskyInverse, Inverse, LUInverse
from upweight.solve.fallback import Fallback
from upweight.solve.filters import Filter, Mixture, Ridge, Segment, filtered
from upweight.solve.inverse import Inverted, inverse
from upweight.solve.lanczos import lanczos
from upweight.solve.low_rank import LowRankInverse
from upweight.solve.neumann import Neumann
from upweight.solve.nystrom import nystrom, nystrom_preconditioner
from upweight.solve.verdict import Solution, Verdict
from upweight.solve.woodbury import WoodburyInverse, woodbury

__all__ = [
    "BlockCG",
    "CholeskyInverse",
    "Fallback",
    "Filter",
    "Inverse",
    "Inverted",
    "LUInverse",
    "LowRankInverse",
    "Mixture",
    "Neumann",
    "Ridge",
    "Segment",
    "Solution",
    "Verdict",
    "WoodburyInverse",
    "filtered",
    "inverse",
    "lanczos",
    "nystrom",
    "nystrom_preconditioner",
    "woodbury",
]
