"""``python -m upweight`` is the command line."""

from upweight.cli import app

app()
