"""What a person decided about training points, and what following it would do."""

from upweight.review.decisions import Decision, Decisions, read_decisions
from upweight.review.what_if import WhatIf, can_refit, what_if

__all__ = ["Decision", "Decisions", "WhatIf", "can_refit", "read_decisions", "what_if"]
