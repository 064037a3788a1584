"""Commands for people: the report to review, and what was decided in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from upweight.cli.talk import AsJson, answer, guarded, say
from upweight.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: upweight report runs/a --out report.html")(report)
    app.command(epilog="Example: upweight apply decisions.csv --run runs/a --out cleaned.csv")(apply)


@guarded
def report(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Its headline.")] = None,
    groups: Annotated[str | None, typer.Option(help="Column whose groups are left out as a whole.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page to look at, and to decide in, with a browser."""
    from upweight.report.gathered import Stored, Wanted
    from upweight.report.page import write_report
    from upweight.runs import Run

    found = Run(run)
    opened = found.open()
    gathered = found.gathered(opened)
    stored = gathered.stored
    made = found.refits
    wanted = Wanted(
        query=opened.query,
        display=opened.display,
        groups=None if groups is None else _group_labels(found, opened, groups),
        refits=0,
        calibration=found.calibration(stored.each) if stored.each is not None and len(made) > 1 else None,
        title=title or f"What the rows of {Path(found.source.name).name} did",
        commands=_commands(found, run, out),
        notes=opened.words,
    )
    say(f"writing {out} …")
    write_report(opened.study.fitted, out, wanted, Stored(stored.self_influence, stored.each, stored.mean))
    size = out.stat().st_size
    say("open it in a browser, decide, export, then: upweight apply decisions.csv --run " + f"{run} --out cleaned.csv")
    answer({"page": str(out), "bytes": size}, as_json, lambda: str(out))


@guarded
def apply(
    decisions: Annotated[Path, typer.Argument(help="Decisions exported from a report, .csv or .json.")],
    run: Annotated[Path, typer.Option(help="Folder of the run that the report was written from.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the table as decided; a .json of names for factories.")
    ] = None,
    refit: Annotated[bool, typer.Option("--refit/--no-refit", help="Also refit for real.")] = True,
    as_json: AsJson = False,
) -> None:
    """What following the decisions does to the validation loss, predicted and refitted; and the data as decided."""
    from upweight.review import read_decisions, what_if
    from upweight.review.followed import follow
    from upweight.runs import Run, write_decided

    found = Run(run)
    read = read_decisions(decisions)
    opened = found.open()
    followed = follow(opened.study.fitted, read)
    forecast = None
    if opened.query is not None:
        forecast = what_if(opened.study.fitted, read, opened.query, None if refit else False)
    written = None if out is None else str(write_decided(found.source, opened, followed, out))
    summary = {
        "decisions": len(read),
        "dropped": len(followed.dropped),
        "relabelled": len(followed.relabelled),
        "what_if": None if forecast is None else dataclasses.asdict(forecast),
        "written": written,
    }
    words = (
        repr(forecast)
        if forecast is not None
        else "No rows were held out, so nothing tells what this does to a loss; score with --holdout or --validation."
    )
    answer(summary, as_json, lambda: words if written is None else f"{words}\nWritten {written}.")


def _group_labels(run: Any, opened: Any, name: str) -> list[str]:
    from upweight.runs.tables import read_table

    if opened.rows is None:
        raise ConfigError(
            "--groups needs a run of a table. Expected a column of it; for a factory use study.report(groups=...)."
        )
    table = read_table(run.source.name)
    if name not in table.columns:
        raise ConfigError(f"--groups {name!r} is no column. Expected one of {', '.join(map(str, table.columns[:12]))}.")
    return table[name].iloc[opened.rows].astype(str).tolist()


def _commands(run: Any, folder: Path, out: Path) -> tuple[str, ...]:
    """How the page is made again; files by their names alone, since the page may be mailed."""
    import shlex

    source, plain = run.source, type(run.source)(run.source.name)
    words = ["upweight", "score", Path(source.name).name]
    for option in ("target", "model", "validation", "holdout", "id", "task", "seed"):
        value = getattr(source, option)
        if value != getattr(plain, option):
            words += [f"--{option}", Path(value).name if option in ("model", "validation") else str(value)]
    words += [word for kind in source.trusted for word in ("--trust", kind)]
    return (
        shlex.join([*words, "--out", folder.name]),
        shlex.join(["upweight", "report", folder.name, "--out", out.name]),
        shlex.join(["upweight", "apply", "decisions.csv", "--run", folder.name, "--out", "cleaned.csv"]),
    )
