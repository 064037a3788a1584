"""The command line: stdout is data, stderr is talk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from upweight.demo import run_demo
from upweight.errors import UpweightError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="What would change about a fitted model if its training data changed.",
)


@app.callback()
def main() -> None:
    """What would change about a fitted model if its training data changed."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html.")] = Path("."),
    seed: Annotated[int, typer.Option(help="Seed of the split and of the planted labels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Fit bundled real digits, find planted label errors, verify by refitting, write report.html."""
    talk = Console(stderr=True)
    talk.print("Fitting 1,437 real digits with 5 % wrong labels, then leaving points out for real …")
    try:
        found = run_demo(out, seed)
    except UpweightError as error:
        talk.print(f"[bold]{type(error).__name__}[/bold]: {error}")
        raise typer.Exit(4) from None
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found)))
        return
    typer.echo(
        f"Wrong labels   {found.found} of {found.planted} planted are among the first {found.looked_at} suspects by self-influence "
        f"({found.found_by_loss} by loss alone; {found.looked_at * found.planted / 1437:.0f} expected by chance)\n"
        f"Refits         {found.refits} points really left out: refitted = {found.slope:.3f} × predicted, Pearson {found.pearson:.5f}\n"
        f"Accuracy       {found.accuracy:.1%} as fitted, {found.accuracy_corrected:.1%} once the wrong labels among the suspects are corrected and the model is fitted again\n"
        f"Report         {found.page} (open it in a browser)\n"
        f"Time           {found.seconds:.0f} s"
    )
