"""What is inside Pipelines, searches, calibrated classifiers and transformed targets: the estimator that was fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from upweight.errors import MissingExtraError, ModelError


@dataclass(frozen=True)
class Estimator:
    """A fitted estimator apart from the transformers in front of it.

    Attributes:
        columns: how many columns the data have; None where the first transformer takes what it takes.
        names: what they are called, None if the fit does not know.
        features: what the columns are called that the estimator itself is given, None if that is not known.
        outcomes: how the user's outcomes become what it was fitted on; None where they are the same.
        notes: what every answer must say.
    """

    final: Any
    transformers: Any | None = None
    columns: int | None = None
    names: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    outcomes: Callable[[np.ndarray], np.ndarray] | None = None
    notes: tuple[str, ...] = ()


def take_apart(fitted: Any) -> Estimator:
    """Unwrap until a plain estimator is left.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        ModelError: an unfitted estimator, or a wrapper around several.
    """
    try:
        from sklearn.exceptions import NotFittedError
        from sklearn.pipeline import Pipeline
        from sklearn.utils.validation import check_is_fitted
    except ImportError as error:
        raise MissingExtraError(
            "from_sklearn needs scikit-learn, which is not installed. Install it with: pip install 'upweight[sklearn]'"
        ) from error
    fitted, outcomes, notes = _unwrapped(fitted)
    final = fitted.steps[-1][1] if isinstance(fitted, Pipeline) else fitted
    if isinstance(final, Pipeline):
        raise ModelError(
            "found a Pipeline whose last step is a Pipeline. Expected one level; pass Pipeline([*outer.steps[:-1], *outer.steps[-1][1].steps])."
        )
    final, inner, more = _unwrapped(final)
    try:
        check_is_fitted(final)
    except NotFittedError:
        raise ModelError(
            f"this {type(final).__name__} is not fitted. Expected a fitted estimator; call fit(X, y) first."
        ) from None
    except TypeError:
        raise ModelError(
            f"found {type(final).__name__}. Expected a fitted scikit-learn estimator; for an nn.Module build a uw.Study."
        ) from None
    found = Estimator(final, outcomes=outcomes or inner, notes=(*notes, *more))
    return _columns_of(found, fitted, isinstance(fitted, Pipeline) and len(fitted.steps) > 1)


def _columns_of(found: Estimator, fitted: Any, piped: bool) -> Estimator:
    transformers = fitted[:-1] if piped else None
    outer = fitted.steps[0][1] if hasattr(fitted, "steps") else found.final
    names = getattr(outer, "feature_names_in_", None)
    named = None if names is None else tuple(names)
    return replace(
        found,
        transformers=transformers,
        columns=getattr(outer if piped else found.final, "n_features_in_", None),
        names=named,
        features=_named_by(transformers) if piped else named,
        notes=(*found.notes, *(["Transformers held fixed"] if piped else [])),
    )


def _named_by(transformers: Any) -> tuple[str, ...] | None:
    """What the transformers call their columns, where the data had names."""
    try:
        if getattr(transformers[0], "feature_names_in_", None) is None and not hasattr(transformers[0], "vocabulary_"):
            return None
        return tuple(str(name) for name in transformers.get_feature_names_out())
    except (AttributeError, ValueError, TypeError):
        return None  # some transformers have no names for what they make


def _unwrapped(fitted: Any) -> tuple[Any, Callable[[np.ndarray], np.ndarray] | None, tuple[str, ...]]:
    """Searches, calibration, freezing and transformed targets taken off, and what is to be said of each."""
    outcomes, notes = None, ()
    while True:
        kind = type(fitted).__name__
        if kind in WRAPPERS:
            try:
                fitted, note = WRAPPERS[kind](fitted)
            except AttributeError:
                raise ModelError(
                    f"this {kind} is not fitted. Expected a fitted estimator; call fit(X, y) first."
                ) from None
            notes = (*notes, note)
        elif kind == "TransformedTargetRegressor" and hasattr(fitted, "regressor_"):
            outcomes, notes = _transformed(fitted), (*notes, "Predictions and losses are of the transformed target")
            fitted = fitted.regressor_
        else:
            return fitted, outcomes, notes


def _transformed(fitted: Any) -> Callable[[np.ndarray], np.ndarray]:
    def outcomes(targets: np.ndarray) -> np.ndarray:
        column = np.asarray(targets, dtype=float)
        found = fitted.transformer_.transform(column.reshape(len(column), -1))
        return np.asarray(found).reshape(column.shape)

    return outcomes


def _best(search: Any) -> tuple[Any, str]:
    if not hasattr(search, "best_estimator_"):
        raise ModelError(
            f"this {type(search).__name__} holds no fitted estimator. Expected refit=True and a call of fit(X, y)."
        )
    return search.best_estimator_, "What the search chose is held fixed"


def _calibrated(fitted: Any) -> tuple[Any, str]:
    parts = getattr(fitted, "calibrated_classifiers_", [])
    if len(parts) != 1:
        raise ModelError(
            f"CalibratedClassifierCV found {len(parts)} classifiers, each fitted on a part of the data. Expected one; fit it with ensemble=False, or pass one of .calibrated_classifiers_[i].estimator with its part."
        )
    return parts[0].estimator, "Probabilities are the classifier's own, before calibration"


WRAPPERS: dict[str, Callable[[Any], tuple[Any, str]]] = {
    "GridSearchCV": _best,
    "RandomizedSearchCV": _best,
    "HalvingGridSearchCV": _best,
    "HalvingRandomSearchCV": _best,
    "TunedThresholdClassifierCV": lambda fitted: (fitted.estimator_, "The threshold is held fixed"),
    "FixedThresholdClassifier": lambda fitted: (fitted.estimator_, "The threshold is held fixed"),
    "FrozenEstimator": lambda fitted: (fitted.estimator, "The frozen estimator is read as fitted on these data"),
    "CalibratedClassifierCV": _calibrated,
}
"""Wrappers by name: what is inside, and what must be said."""
