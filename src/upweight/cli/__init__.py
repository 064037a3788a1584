"""The command line: stdout is data, stderr is talk."""

import typer

from upweight.cli import about, indexing, planning, reading, reviewing, scoring
from upweight.cli.talk import EXIT_CODES, exit_code

__all__ = ["EXIT_CODES", "app", "exit_code"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="What would change about a fitted model if its training data changed.",
    epilog="Example: upweight score people.csv --target income --out runs/a, then upweight report runs/a --out report.html",
)


@app.callback()
def main() -> None:
    """What would change about a fitted model if its training data changed."""


for room in (about, scoring, reading, reviewing, indexing, planning):
    room.add_to(app)
