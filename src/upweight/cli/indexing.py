"""Commands about an index: made once from a run, asked for ever."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from upweight.cli.talk import AsJson, answer, guarded
from upweight.errors import ConfigError, plain

if TYPE_CHECKING:
    from upweight.index import IndexInfo
    from upweight.runs import Opened
    from upweight.study import Study

Folder = Annotated[Path, typer.Argument(help="Folder of the index.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: upweight index runs/a runs/a/index. Run it again to go on after an interruption.")(
        index
    )
    app.command(epilog="Example: upweight query runs/a/index --run runs/a -k 5")(query)
    app.command(epilog="Example: upweight info runs/a/index")(info)
    app.command(epilog="Example: upweight verify runs/a/index")(verify)


@guarded
def index(
    run: Annotated[Path, typer.Argument(help="Folder of the run whose model and rows are indexed.")],
    path: Folder,
    dtype: Annotated[str, typer.Option(help="'float64', 'float32', 'float16' or 'int8'.")] = "float16",
    as_json: AsJson = False,
) -> None:
    """Keep a compressed gradient of every training row on disk."""
    made = built(_opened(run).study, path, dtype=dtype)
    answer(made, as_json, lambda: made["sentence"])


@guarded
def query(
    path: Folder,
    run: Annotated[Path, typer.Option(help="Folder of the run whose held-out or validation rows are asked about.")],
    k: Annotated[int, typer.Option("-k", help="Rows at either end of every ranking.")] = 20,
    as_json: AsJson = False,
) -> None:
    """What helped and what hurt every row asked about, from the index alone."""
    opened = _opened(run)
    if opened.query is None:
        raise ConfigError(
            f"query found no rows to ask about in {run}. Expected a run with held-out or validation rows."
        )
    found = asked(opened.study, path, opened.query, k)
    answer(found, as_json, lambda: _table(found))


@guarded
def info(path: Folder, as_json: AsJson = False) -> None:
    """What an index holds; no model is needed."""
    from upweight.index import Index

    found = _said(Index.open(path).info())
    answer(found, as_json, lambda: found["sentence"])


@guarded
def verify(path: Folder, as_json: AsJson = False) -> None:
    """Compare every file of an index with its checksum; no model is needed."""
    from upweight.index import Index

    found = _said(Index.open(path).verify())
    answer(found, as_json, lambda: f"every file is whole. {found['sentence']}")


def built(study: Study, path: Path, **how: Any) -> dict[str, Any]:
    """Make an index, or finish one: arguments of ``Index.build``."""
    from upweight.index import Index

    return _said(Index.build(study, path, **how).info())


def asked(study: Study, path: Path, data: Any, k: int = 20, **how: Any) -> dict[str, Any]:
    """Both ends of every query's ranking: arguments of ``Index.query``."""
    from upweight.index import Index

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


def _said(found: IndexInfo) -> dict[str, Any]:
    return asdict(found) | {"complete": found.complete, "sentence": str(found)}


def _pairs(ids: Any, values: Any) -> list[dict[str, Any]]:
    return [{"train": plain(name), "effect": float(value)} for name, value in zip(ids, values, strict=True)]


def _opened(run: Path) -> Opened:
    from upweight.runs import Run, open_source

    return open_source(Run(run).source)


def _table(found: dict[str, Any]) -> Table:
    table = Table("query", "helped most", "hurt most", box=None, padding=(0, 2, 0, 0))
    for row in found["queries"]:
        ends = [", ".join(f"{one['train']} ({one['effect']:.3g})" for one in row[end][:3]) for end in ("top", "bottom")]
        table.add_row(str(row["query"]), *ends)
    return table
