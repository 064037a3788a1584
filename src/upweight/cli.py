"""The command line: stdout is data, stderr is talk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from upweight.demo import PLANTED, REFITS, run_demo
from upweight.errors import (
    InputError,
    MissingExtraError,
    ModelError,
    NumericalError,
    ResourceError,
    StoreError,
    UpweightError,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="What would change about a fitted model if its training data changed.",
)


EXIT_CODES: list[tuple[type[UpweightError], int]] = [
    (InputError, 3),
    (ModelError, 3),
    (NumericalError, 4),
    (StoreError, 5),
    (ResourceError, 6),
    (MissingExtraError, 6),
]
"""3 input refused, 4 numerical, 5 store, 6 resource; anything else is 2, usage."""


def exit_code(error: UpweightError) -> int:
    """The exit code of an error."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 2)


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
    talk.print(f"Fitting real digits with {PLANTED:.0%} wrong labels, then leaving {REFITS} of them out for real …")
    try:
        found = run_demo(out, seed)
    except UpweightError as error:
        talk.print(f"[bold]{type(error).__name__}[/bold]: {escape(str(error))}")
        raise typer.Exit(exit_code(error)) from None
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found)))
        return
    typer.echo(
        f"Wrong labels   {found.found} of {found.planted} planted are among the first {found.looked_at} suspects by self-influence "
        f"({found.found_by_loss} by loss alone; {found.looked_at * found.planted / found.points:.0f} expected by chance)\n"
        f"Refits         {found.refits} points really left out: refitted = {found.slope:.3f} × predicted, Pearson {found.pearson:.5f}\n"
        f"Accuracy       {found.accuracy:.1%} as fitted, {found.accuracy_corrected:.1%} once the wrong labels among the suspects are corrected and the model is fitted again\n"
        f"Report         {found.page} (open it in a browser)\n"
        f"Time           {found.seconds:.0f} s"
    )
