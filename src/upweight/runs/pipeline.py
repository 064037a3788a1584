"""The default pipeline for a table, and pipelines from skops files."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from upweight.errors import InputError, LabelError, MissingExtraError
from upweight.runs.source import refuse_pickle

if TYPE_CHECKING:
    import pandas as pd

MANY = 0.5
"""Share of different values above which a column of words is text, or a name that says nothing about other rows."""

WORDS = 3.0
"""Words a cell on average from which a column of different texts is text, not names."""

PARAMETERS = 4000
"""Coefficients that words may take in all: an exact Hessian of that size is a matter of seconds."""


@dataclass(frozen=True)
class Columns:
    """Columns by how they are read."""

    numbers: list[str]
    categories: list[str]
    texts: list[str]
    left_out: list[str]

    @property
    def used(self) -> list[str]:
        """Those that the model sees."""
        return [*self.numbers, *self.categories, *self.texts]


def columns_of(frame: pd.DataFrame, without: list[str]) -> Columns:
    """Numbers, categories, texts, and columns that say nothing: constant, empty, dates, or another name in every row."""
    found: dict[str, list[str]] = {"numbers": [], "categories": [], "texts": [], "left_out": []}
    for name in frame.columns:
        if name not in without:
            found[_kind(cast("pd.Series", frame[name].dropna()))].append(name)
    return Columns(**found)


def _kind(values: pd.Series) -> str:
    distinct = values.nunique()
    if distinct < 2 or values.dtype.kind in "mM":
        return "left_out"
    if values.dtype.kind in "iufb":
        return "numbers"
    if distinct <= MANY * len(values):
        return "categories"
    words = values.astype(str).str.split().str.len().mean()
    return "texts" if words >= WORDS else "left_out"


def fit_default(X: pd.DataFrame, y: pd.Series, classes: bool, without: list[str]) -> tuple[Any, Columns, str]:
    """Fit the default pipeline; returns it, the columns it reads, and what it is in a sentence.

    Raises:
        InputError: no column to learn from.
        LabelError: a single class.
        MissingExtraError: scikit-learn is not installed.
    """
    columns = columns_of(X, without)
    if not columns.used:
        raise InputError(
            f"found no column to learn from among {', '.join(map(str, X.columns[:12]))}. Expected numbers, categories or texts that differ between rows."
        )
    count = y.nunique()
    if classes and count < 2:
        raise LabelError(f"found the single class {y.iloc[0]!r}. Expected at least two; name another --target.")
    model = _pipeline(columns, classes, 1 if count <= 2 or not classes else count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence is measured by the study, and said
        model.fit(X[columns.used], y)
    return model, columns, _said(columns, classes)


def _pipeline(columns: Columns, classes: bool, outputs: int) -> Any:
    try:
        from sklearn.compose import ColumnTransformer
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler
    except ImportError as error:
        raise MissingExtraError(
            "scoring a table needs scikit-learn, which is not installed. Install it with: pip install 'upweight[sklearn]'"
        ) from error
    words = max(50, PARAMETERS // (outputs * max(1, len(columns.texts))))
    parts: list[tuple[str, Any, Any]] = []
    if columns.numbers:
        parts.append(("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), columns.numbers))
    if columns.categories:
        encoder = OneHotEncoder(handle_unknown="ignore", min_frequency=5, max_categories=30)
        parts.append(
            ("categories", make_pipeline(SimpleImputer(strategy="most_frequent"), encoder), columns.categories)
        )
    for name in columns.texts:
        reader = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=words)
        parts.append((f"text {name}", make_pipeline(_as_text(), reader), name))
    last = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000) if classes else Ridge(alpha=1.0)
    return make_pipeline(ColumnTransformer(parts), last)


def _as_text() -> Any:
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(texts_of)


def texts_of(column: Any) -> Any:
    """A column as texts, a missing one empty."""
    return column.fillna("").astype(str)


def _said(columns: Columns, classes: bool) -> str:
    parts = []
    if columns.numbers:
        parts.append(f"{len(columns.numbers)} numeric columns (median for gaps, standardised)")
    if columns.categories:
        parts.append(f"{len(columns.categories)} categorical columns (one-hot)")
    if columns.texts:
        parts.append(f"text in {', '.join(map(str, columns.texts))} (TF-IDF)")
    last = "LogisticRegression(C=1)" if classes else "Ridge(alpha=1)"
    ignored = f"; not used: {', '.join(map(str, columns.left_out[:8]))}" if columns.left_out else ""
    return f"default pipeline: {', '.join(parts)} → {last}{ignored}"


def load_pipeline(path: str, trusted: tuple[str, ...]) -> Any:
    """A fitted pipeline from a skops file, which holds no code.

    Raises:
        InputError: a pickle, a damaged file, or one with types that were not named as trusted.
        MissingExtraError: skops is not installed.
    """
    refuse_pickle(path)
    if not Path(path).is_file():
        raise InputError(f"found no file {path}. Expected a pipeline saved by skops.io.dump; check the path.")
    try:
        import skops.io as sio
    except ImportError as error:
        raise MissingExtraError(
            "skops files need skops, which is not installed. Install it with: pip install 'upweight[sklearn]'"
        ) from error
    try:
        unknown = sorted(set(sio.get_untrusted_types(file=path)) - set(trusted))
    except Exception as error:  # a damaged archive may fail anywhere in its reader
        raise InputError(
            f"{path} is no skops file ({type(error).__name__}: {error}). Expected one that skops.io.dump wrote."
        ) from error
    if unknown:
        raise InputError(
            f"{path} holds types that are not trusted: {', '.join(unknown)}. Expected scikit-learn's own; name each that you know in --trust."
        )
    return sio.load(path, trusted=list(trusted))
