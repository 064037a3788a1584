"""Tables from files, split into rows to train on and rows to ask about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from upweight.errors import ConfigError, EmptyDataset, InputError, MissingExtraError, StoreError
from upweight.runs.source import TABLES, Source, refuse_pickle
from upweight.store import write_whole

if TYPE_CHECKING:
    import pandas as pd

FEW = 20
"""Different whole numbers up to which a target is taken for classes."""

LEAST = 8
"""Rows with which there is something to fit."""


@dataclass(frozen=True)
class Split:
    """Rows of a table by position: those trained on, and those asked about."""

    frame: pd.DataFrame
    train: np.ndarray
    query: np.ndarray
    asked: pd.DataFrame | None
    classes: bool
    words: tuple[str, ...]


def read_table(path: str | Path, raw: bool = False) -> pd.DataFrame:
    """A table from a CSV, TSV or Parquet file; raw keeps every cell of a CSV as the text it is.

    Raises:
        InputError: not such a file, or one that cannot be read.
        MissingExtraError: pyarrow, for Parquet, is not installed.
    """
    import pandas as pd

    target = Path(path)
    refuse_pickle(target)
    if not target.is_file():
        raise InputError(f"found no file {target}. Expected a table: {', '.join(TABLES)}; check the path.")
    kind = target.suffix.lower()
    if kind not in TABLES:
        raise InputError(f"{target} ends in {kind or 'nothing'!r}. Expected one of {', '.join(TABLES)}; convert it.")
    try:
        if kind == ".parquet":
            return pd.read_parquet(target)
        exact: dict[str, Any] = {"dtype": str, "na_filter": False} if raw else {}
        return pd.read_csv(target, sep="\t" if kind == ".tsv" else ",", **exact)
    except ImportError as error:
        raise MissingExtraError(
            "Parquet needs pyarrow, which is not installed. Install it with: pip install 'upweight[arrow]'"
        ) from error
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{target} cannot be read as a table ({error}). Expected rows of equal length in UTF-8."
        ) from error


def write_table(path: str | Path, frame: pd.DataFrame) -> Path:
    """Write a table in the form its name says, whole or not at all."""
    import io

    kind = Path(path).suffix.lower()
    if kind not in TABLES:
        raise StoreError(f"{path} ends in {kind or 'nothing'!r}. Expected one of {', '.join(TABLES)}.")
    if kind == ".parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer)
        return write_whole(path, buffer.getvalue())
    return write_whole(
        path, frame.to_csv(index=False, sep="\t" if kind == ".tsv" else ",").encode("utf-8", "surrogatepass")
    )


def split(source: Source) -> Split:
    """Read, choose what the target is, and hold rows out.

    Raises:
        ConfigError: a column that is not there, or a share out of range.
        EmptyDataset: too few rows.
    """
    frame = read_table(source.name)
    _require_columns(frame, source)
    words: list[str] = []
    usable = np.flatnonzero(frame[source.target].notna().to_numpy())
    if len(usable) < len(frame):
        words.append(f"{len(frame) - len(usable):,} rows have no {source.target!r} and are left out")
    if len(usable) < LEAST:
        raise EmptyDataset(
            f"{source.name} has {len(usable)} rows with a {source.target!r}. Expected at least {LEAST}; name another column in --target."
        )
    classes = target_is_classes(frame[source.target].iloc[usable], source.task)
    asked = None if source.validation is None else _asked(source, frame)
    whole = source.validation is not None or source.model is not None or source.holdout == 0
    query = (
        np.empty(0, dtype=int) if whole else _held_out(cast("pd.Series", frame[source.target]), usable, source, classes)
    )
    train = np.setdiff1d(usable, query)
    return Split(frame, train, query, asked, classes, tuple(words))


def target_is_classes(target: pd.Series, task: str | None) -> bool:
    """Whether a target is classes: as asked, or texts, truths and few whole numbers."""
    if task is not None:
        return task == "classes"
    if target.dtype.kind not in "iuf":
        return True
    values = target.to_numpy(dtype=float)
    return bool((values == np.round(values)).all()) and len(np.unique(values)) <= FEW


def _require_columns(frame: pd.DataFrame, source: Source) -> None:
    if source.target is None:
        raise ConfigError(f"a table needs --target. Expected one of {', '.join(map(str, frame.columns[:12]))}.")
    for option, name in (("--target", source.target), ("--id", source.id)):
        if name is not None and name not in frame.columns:
            raise ConfigError(
                f"{option} {name!r} is no column of {source.name}. Expected one of {', '.join(map(str, frame.columns[:12]))}."
            )
    if not 0 <= source.holdout < 1:
        raise ConfigError(f"--holdout found {source.holdout}. Expected a share from 0 up to 1, such as 0.2.")


def _asked(source: Source, frame: pd.DataFrame) -> pd.DataFrame:
    assert source.validation is not None
    asked = read_table(source.validation)
    missing = [str(name) for name in frame.columns if name not in asked.columns and name != source.id]
    if missing:
        raise InputError(
            f"{source.validation} lacks the columns {', '.join(missing[:6])}. Expected the columns of {source.name}."
        )
    return cast("pd.DataFrame", asked[asked[source.target].notna()])


def _held_out(target: pd.Series, usable: np.ndarray, source: Source, classes: bool) -> np.ndarray:
    """A share of the usable rows at random, of every class the same."""
    rng = np.random.default_rng(source.seed)
    if not classes:
        return np.sort(rng.choice(usable, round(source.holdout * len(usable)), replace=False))
    labels = target.to_numpy()[usable].astype(str)
    parts = []
    for label in np.unique(labels):
        of_class = usable[labels == label]
        parts.append(rng.choice(of_class, int(source.holdout * len(of_class)), replace=False))
    return np.sort(np.concatenate(parts))
