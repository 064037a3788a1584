"""The fewest points whose absence would overturn a claim: predicted, searched for, and confirmed by refitting."""

from upweight.inference.worst_case.question import WorstCaseQuestion, worst_case
from upweight.inference.worst_case.result import Estimate, Removal, WorstCase

__all__ = ["Estimate", "Removal", "WorstCase", "WorstCaseQuestion", "worst_case"]
