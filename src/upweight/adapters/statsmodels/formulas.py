"""Designs and outcomes of new frames, by the formula the model was fitted with (patsy or formulaic)."""

from __future__ import annotations

from typing import Any

import numpy as np

from upweight.errors import NonFiniteInput, ShapeError


def design(model: Any, given: Any, what: str) -> np.ndarray:
    """The design matrix (m, k) of new data: by formula from a frame with its variables, else column by column.

    Raises:
        ShapeError: a frame without the columns that are needed.
        NonFiniteInput: rows the formula has no value for.
    """
    spec, columns = getattr(model.data, "model_spec", None), getattr(given, "columns", None)
    names = [str(name) for name in model.data.xnames]
    if columns is None:
        return np.asarray(given, dtype=float)
    if spec is None or set(names) <= set(map(str, columns)):
        missing = [name for name in names if name not in set(map(str, columns))]
        if missing:
            raise ShapeError(
                f"the {what} has no column {missing[0]!r}. Expected the columns of the design, {', '.join(names[:6])}; add a constant with sm.add_constant() if that is what is missing."
            )
        return np.asarray(given[[name for name in columns if str(name) in names]][names], dtype=float)
    return _complete(_evaluated(spec, given, what, _of_patsy(spec)), given, what)


def outcomes(model: Any, given: Any, what: str) -> Any:
    """The left side of the formula in a new frame; None where the frame has not got it."""
    formula, columns = getattr(model, "formula", None), getattr(given, "columns", None)
    if formula is None or columns is None:
        return None
    left = str(formula).split("~")[0].strip()
    if left in columns:
        return given[left]
    try:
        return _complete(_evaluated(f"0 + {left}", given, what, _of_patsy(model.data.model_spec)), given, what)
    except ShapeError:
        return None  # the outcome is not among the columns, and only predictions can be asked about


def _evaluated(formula: Any, given: Any, what: str, patsys: bool) -> Any:
    """A formula or its specification on a frame; rows without a value are left out."""
    try:
        if patsys:
            from patsy import dmatrix  # pyright: ignore[reportAttributeAccessIssue]

            return dmatrix(formula, given, return_type="dataframe")
        from formulaic import model_matrix

        return model_matrix(formula, given)
    except Exception as error:  # whatever the formula's own functions raise
        raise ShapeError(
            f"the {what} could not be read by the model's formula: {str(error).splitlines()[0]}. Expected a frame with its variables, or (exog, endog) in the columns of its design."
        ) from error


def _of_patsy(spec: Any) -> bool:
    """Which of the two libraries wrote a specification."""
    return type(spec).__module__.startswith("patsy")


def _complete(found: Any, given: Any, what: str) -> np.ndarray:
    if len(found) != len(given):
        lost = [name for name in given.index if name not in set(found.index)]
        raise NonFiniteInput(
            f"{len(given) - len(found)} rows of the {what} have missing values, the first is {lost[0]!r}. Expected complete rows; drop or impute them."
        )
    return np.asarray(found, dtype=float)
