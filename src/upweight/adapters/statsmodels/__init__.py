"""Fitted statsmodels results as objectives: one family of models a file, one table of rules."""

from upweight.adapters.statsmodels.rules import adapt_statsmodels

__all__ = ["adapt_statsmodels"]
