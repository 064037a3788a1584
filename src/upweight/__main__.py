"""``python -m upweight`` is the command line too."""

from upweight.cli import app

app()
