"""The command that says what a question would take before it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upweight.cli.talk import AsJson, answer, guarded


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(epilog="Example: upweight plan runs/a --queries 100 --memory 4GB")(plan)


@guarded
def plan(
    run: Annotated[Path, typer.Argument(help="Folder of the run, or a factory pkg.module:make_study.")],
    queries: Annotated[int, typer.Option(help="How many queries will be asked together.")] = 100,
    memory: Annotated[str | None, typer.Option(help="What it must fit in, such as 4GB; half of the machine's.")] = None,
    as_json: AsJson = False,
) -> None:
    """FLOPs, time, disk and memory of every method, counted and measured before anything runs."""
    from upweight.runs import Run, Source, open_source

    source = Run(run).source if run.is_dir() else Source(str(run))
    found = open_source(source).study.plan(queries, memory=memory)
    answer({"sentence": found.sentence, "methods": found.rows()}, as_json, lambda: repr(found))
