"""The facade: a fitted model, its data, and every question about it."""

from upweight.study.study import Study

__all__ = ["Study"]
