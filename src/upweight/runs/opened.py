"""A source opened: the study, what to ask it about, and how its points look."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from upweight.errors import ConfigError, InputError, ModelError, UpweightError
from upweight.frameworks import from_sklearn
from upweight.report.outcomes import outcomes
from upweight.runs.argued import argued
from upweight.runs.pipeline import fit_default, load_pipeline
from upweight.runs.source import Source, refuse_pickle
from upweight.runs.tables import Split, split
from upweight.show import Shown, Table, Text
from upweight.study import Study

if TYPE_CHECKING:
    import pandas as pd

LONG = 24
"""Characters a cell on average from which a column is shown as text."""


@dataclass(frozen=True)
class Opened:
    """A study ready to be asked.

    Attributes:
        query: what to ask about, None for nothing.
        display: how points look, None for the report's default.
        words: what was done to get here, a sentence each.
        rows: the row of the table that every training point is, None where there is no table.
    """

    study: Study
    query: Any = None
    display: Shown | str | None = None
    words: tuple[str, ...] = ()
    rows: np.ndarray | None = field(default=None, repr=False)


def open_source(source: Source) -> Opened:
    """Make the study that a source names.

    Raises:
        ConfigError: a source that is neither a table nor a factory, or options that do not fit it.
        InputError: a pickle, or data that cannot be scored.
        ModelError: a factory that fails, or returns no study.
    """
    if source.is_table:
        return _open_table(source)
    refuse_pickle(source.name)
    if source.name.count(":") != 1 or not all(source.name.split(":")):
        raise ConfigError(
            f"found the source {source.name!r}. Expected a table (.csv, .tsv, .parquet) with --target, or a factory written module:function."
        )
    return _call_factory(source.name)


def _call_factory(name: str) -> Opened:
    """Import and call what the user named; only names typed by the user are ever imported."""
    module, function = name.split(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function)()
    except UpweightError:
        raise
    except Exception as error:
        raise ModelError(
            f"{name} raised {type(error).__name__}: {error}. Expected a function without arguments that returns a uw.Study, or (study, query), or (study, query, display); call it in Python to see where."
        ) from error
    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], Study):
        raise ModelError(
            f"{name} returned {type(parts[0]).__name__ if len(parts) == 1 else f'{len(parts)} things'}. Expected a uw.Study, or (study, query), or (study, query, display)."
        )
    return Opened(*parts, words=(f"study made by {name}",))


def _open_table(source: Source) -> Opened:
    parts = split(source)
    without = [name for name in (source.target, source.id) if name is not None]
    X, y = parts.frame.drop(columns=without).iloc[parts.train], _target(parts.frame, parts.train, source, parts.classes)
    if source.model is None:
        model, columns, said = fit_default(X, y, parts.classes, [])
        used = columns.used
    else:
        model, said = load_pipeline(source.model, source.trusted), f"pipeline read from {Path(source.model).name}"
        used = _columns_of(model, X)
    names = parts.frame[source.id].to_numpy() if source.id is not None else np.arange(len(parts.frame))
    study = from_sklearn(model, X[used], y, ids=names[parts.train])
    asked, query = _query(parts, source, used)
    display = _display(study, query, model if source.model is None else None, (X, asked), used)
    return Opened(study, query, display, (*parts.words, said, _held(parts, source)), parts.train)


def _columns_of(model: Any, X: pd.DataFrame) -> list[str]:
    names = getattr(model, "feature_names_in_", None)
    used = list(X.columns) if names is None else list(names)
    missing = [str(name) for name in used if name not in X.columns]
    if missing:
        raise InputError(
            f"the table lacks the pipeline's columns {', '.join(missing[:6])}. Expected what it was fitted on."
        )
    return used


def _target(frame: pd.DataFrame, rows: np.ndarray, source: Source, classes: bool) -> pd.Series:
    """The target of some rows; classes that are not numbers as texts, as a CSV holds them."""
    target = frame[source.target].iloc[rows]
    if not classes:
        return target.astype(float)
    if target.dtype.kind == "f" and bool((target == target.round()).all()):
        return target.astype(int)
    return target if target.dtype.kind in "iu" else target.astype(str)


def _query(parts: Split, source: Source, used: list[str]) -> tuple[pd.DataFrame | None, Any]:
    if parts.asked is not None:
        asked, rows = parts.asked, np.arange(len(parts.asked))
    elif len(parts.query):
        asked, rows = parts.frame, parts.query
    else:
        return None, None
    X = asked[used].iloc[rows]
    X.index = rows if source.id is None or source.id not in asked.columns else asked[source.id].iloc[rows]
    y = _target(asked, rows, source, parts.classes)
    return X, (X, y.set_axis(X.index))


def _held(parts: Split, source: Source) -> str:
    if parts.asked is not None:
        return f"{len(parts.train):,} rows train, {len(parts.asked):,} rows of {Path(str(source.validation)).name} are asked about"
    if not len(parts.query):
        return f"{len(parts.train):,} rows train, none are held out, so nothing is asked about other rows"
    return f"{len(parts.train):,} rows train, {len(parts.query):,} are held out to ask about and are not scored (--holdout 0 scores all)"


def _display(study: Study, query: Any, model: Any, frames: tuple[pd.DataFrame, Any], used: list[str]) -> Shown:
    """One column of text alone is shown as text, by the default pipeline with what its words say; else a table."""
    X, asked = frames
    texts = [name for name in used if X[name].dtype.kind not in "iufb" and X[name].astype(str).str.len().mean() > LONG]
    if len(texts) != 1:
        return Table(X, asked)
    columns = (X[texts[0]], None if asked is None else asked[texts[0]])
    if model is None or f"text {texts[0]}" not in model[0].named_transformers_:
        return Text(*columns)
    fitted = study.fitted
    examples = (fitted.objective.examples, None if query is None else fitted.adapted.codec.read(query, "query"))
    return argued(model, texts[0], columns, (_sides(study, examples[0]), _sides(study, examples[1])))


def _sides(study: Study, examples: Any) -> list[tuple[int, int]] | None:
    """Given and suggested class of every example."""
    if examples is None:
        return None
    found = outcomes(study.fitted, examples)
    if found.kind != "class" or found.given is None or found.suggested is None:
        return None
    return list(zip(found.given.tolist(), found.suggested.tolist(), strict=True))
