"""The fewest points whose absence would overturn a claim: predicted, searched for, and confirmed by refitting."""

from upweight.inference.worst_case.ask import Asked, worst_case
from upweight.inference.worst_case.result import Estimate, Removal, WorstCase

__all__ = ["Asked", "Estimate", "Removal", "WorstCase", "worst_case"]
