"""Fitted scikit-learn estimators as objectives: one family of estimators a file, one table of rules."""

from upweight.adapters.sklearn.adapt import adapt_sklearn

__all__ = ["adapt_sklearn"]
