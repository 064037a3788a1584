"""The data as decided: a table without what was dropped and with the new labels, every other cell as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from upweight.errors import ConfigError
from upweight.review.followed import Followed
from upweight.runs.opened import Opened
from upweight.runs.source import Source
from upweight.runs.tables import read_table, write_table
from upweight.store import write_whole


def write_decided(source: Source, opened: Opened, followed: Followed, out: Path) -> Path:
    """Write the table, or for a factory a JSON file with the names to drop and the new labels.

    Raises:
        ConfigError: the table itself would be overwritten.
        StoreError: the file cannot be written.
    """
    import pandas as pd

    if opened.rows is None:
        ids = opened.study.objective.examples.ids.tolist()
        labels = {str(ids[at]): label for at, label in zip(followed.relabelled.tolist(), followed.labels, strict=True)}
        names = {"drop": [ids[place] for place in followed.dropped], "relabel": labels}
        return write_whole(out, (json.dumps(names, default=str, indent=1) + "\n").encode())
    if Path(source.name).resolve() == out.resolve():
        raise ConfigError(f"--out {out} is the table itself. Expected another name: your data are never overwritten.")
    table = read_table(source.name, raw=True)
    column = table[source.target].to_numpy(dtype=object)
    kind = "text" if Path(source.name).suffix.lower() != ".parquet" else str(table[source.target].dtype.kind)
    for at, label in zip(followed.relabelled.tolist(), followed.labels, strict=True):
        column[opened.rows[at]] = in_kind(label, kind)
    table[source.target] = pd.Series(column, index=table.index).astype(table[source.target].dtype)
    kept = np.setdiff1d(np.arange(len(table)), opened.rows[followed.dropped])
    return write_table(out, table.iloc[kept])


def in_kind(label: Any, kind: str) -> Any:
    """A label as a column of this kind holds it: texts, whole numbers, fractions, truths."""
    if kind == "b":
        return str(label) == "True"
    if kind in "iu":
        return int(float(label))
    return float(label) if kind == "f" else str(label)
