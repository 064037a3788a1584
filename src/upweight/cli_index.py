"""The index on the command line: plain functions that take arguments and return what is printed as JSON."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from upweight.errors import plain
from upweight.index import Index, IndexInfo
from upweight.study import Study

Path = str | os.PathLike[str]


def build(study: Study, path: Path, **how: Any) -> dict[str, Any]:
    """Make an index, or finish one: arguments of ``Index.build``."""
    return _said(Index.build(study, path, **how).info())


def query(study: Study, path: Path, data: Any, k: int = 20, **how: Any) -> dict[str, Any]:
    """Both ends of every query's ranking: arguments of ``Index.query``."""
    found = Index.open(path, study).query(data, k, **how)
    rows = []
    for row, name in enumerate(found.query_ids.tolist()):
        ends = {
            "top": _pairs(found.top_ids[row], found.top[row]),
            "bottom": _pairs(found.bottom_ids[row], found.bottom[row]),
        }
        sure = {} if found.certified is None else {"certified": found.certified[row].tolist()}
        rows.append({"query": name, **ends, **sure})
    return {"measure": found.measure, "unit": found.unit, "verdict": found.verdict, "queries": rows}


def info(path: Path) -> dict[str, Any]:
    """What an index holds; no study is needed."""
    return _said(Index.open(path).info())


def verify(path: Path) -> dict[str, Any]:
    """Compare every file with its checksum; no study is needed.

    Raises:
        CorruptStore: naming every file that is missing or damaged.
    """
    return _said(Index.open(path).verify())


def _said(found: IndexInfo) -> dict[str, Any]:
    return asdict(found) | {"complete": found.complete, "sentence": str(found)}


def _pairs(ids: Any, values: Any) -> list[dict[str, Any]]:
    return [{"train": plain(name), "effect": float(value)} for name, value in zip(ids, values, strict=True)]
