"""Commands that read runs: the top of one, and two against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from upweight.cli.talk import AsJson, answer, guarded
from upweight.errors import ConfigError, IndexOutOfRange, StoreError, listing

MEAN = "mean"
"""The name of all queries together."""

TOPS = 100
"""Suspects whose overlap between two runs is counted."""


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: upweight top runs/a -k 20; upweight top runs/a --query mean --harmful")(top)
    app.command(epilog="Example: upweight diff runs/a runs/b")(diff)


@guarded
def top(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    k: Annotated[int, typer.Option("-k", help="How many rows.")] = 20,
    query: Annotated[str | None, typer.Option(help="A query by name, or 'mean' for all; suspects without it.")] = None,
    harmful: Annotated[bool, typer.Option("--harmful/--helpful", help="Which end of a query's ranking.")] = True,
    as_json: AsJson = False,
) -> None:
    """The labels to look at first, or what helped or hurt a query most."""
    from upweight.runs import Run

    if k < 1:
        raise ConfigError(f"-k found {k}. Expected at least 1.")
    found = Run(run)
    if query is None:
        answer(suspects_of(found, k), as_json, lambda: suspects_table(found, k))
        return
    rows = ranked(found, query, k, harmful)
    answer(rows, as_json, lambda: _rows(rows, ["rank", "train", "effect"]))


@guarded
def diff(
    first: Annotated[Path, typer.Argument(help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(help="Folder of another.")],
    as_json: AsJson = False,
) -> None:
    """How far two runs agree: rankings of suspects and of effects, over the rows they share."""
    from upweight.runs import Run

    found = compared(Run(first), Run(second))
    answer(found, as_json, lambda: _rows([{"what": key, "": value} for key, value in found.items()], ["what", ""]))


def suspects_of(run: Any, k: int) -> list[dict[str, Any]]:
    """The k training points of highest self-influence."""
    columns, labels = _suspects(run)
    order = np.argsort(-columns["self_influence"], kind="stable")[:k]
    words = dict(zip(("given", "predicted", "suggested"), labels["table"]))
    return [
        {
            "rank": rank + 1,
            "train": labels["ids"][place],
            **{name: column[place] for name, column in words.items()},
            "self_influence": float(columns["self_influence"][place]),
            "loss": float(columns["loss"][place]),
        }
        for rank, place in enumerate(order.tolist())
    ]


def suspects_table(run: Any, k: int) -> Table:
    """The same for people."""
    rows = suspects_of(run, k)
    return _rows(rows, list(rows[0]))


def ranked(run: Any, query: str, k: int, harmful: bool) -> list[dict[str, Any]]:
    """What helped or hurt one query, or all."""
    effects = run.mean if query == MEAN else run.joined()
    if effects is None:
        raise StoreError(
            f"{run.folder} has no effects. Expected a run with queries: score with --holdout or --validation."
        )
    names = [str(name) for name in effects.query_ids.tolist()]
    if query not in names:
        raise IndexOutOfRange(f"no query is called {query!r}. Expected 'mean', or one of {listing(names)}.")
    row = effects.values[names.index(query)]
    order = np.argsort(row if harmful else -row, kind="stable")[:k]
    kept = [place for place in order.tolist() if (row[place] < 0) == harmful and row[place] != 0]
    return [
        {"rank": rank + 1, "train": _bare(effects.train_ids[place]), "effect": float(row[place])}
        for rank, place in enumerate(kept)
    ]


def compared(first: Any, second: Any) -> dict[str, Any]:
    """Rank agreement over shared rows."""
    from scipy import stats

    (a, names_a), (b, names_b) = (_suspects(run) for run in (first, second))
    shared = [name for name in names_a["ids"] if name in set(names_b["ids"])]
    if len(shared) < 3:
        raise ConfigError(f"the runs share {len(shared)} rows. Expected at least 3: runs of the same data.")
    places = [{name: place for place, name in enumerate(names["ids"])} for names in (names_a, names_b)]
    x, y = (c["self_influence"][[at[name] for name in shared]] for c, at in zip((a, b), places, strict=True))
    k = min(TOPS, len(shared) // 2)
    tops = [set(np.argsort(-values, kind="stable")[:k].tolist()) for values in (x, y)]
    found: dict[str, Any] = {
        "shared_rows": len(shared),
        "only_in_first": len(names_a["ids"]) - len(shared),
        "only_in_second": len(names_b["ids"]) - len(shared),
        "suspects_spearman": float(stats.spearmanr(x, y)[0]),  # pyright: ignore
        f"suspects_shared_of_first_{k}": len(tops[0] & tops[1]),
    }
    means = [run.mean for run in (first, second)]
    if None not in means:
        u, v = (mean.values[0][[at[name] for name in shared]] for mean, at in zip(means, places, strict=True))
        found["effects_spearman"] = float(stats.spearmanr(u, v)[0])  # pyright: ignore
        found["effects_slope_of_second_on_first"] = float(stats.linregress(u, v).slope)  # pyright: ignore
    return found


def _suspects(run: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    run.head  # noqa: B018 - says what is wrong with the folder
    if run.suspects is None:
        raise StoreError(f"{run.folder} is not finished. Expected a scored run; run the same upweight score again.")
    return run.suspects


def _rows(rows: list[dict[str, Any]], columns: list[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(
            name.replace("_", " "), justify="right" if name in ("rank", "effect", "self_influence", "loss") else "left"
        )
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    return table


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value).replace("_", " "))[:60]


def _bare(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
