"""The command line called from a test, and words of texts that are scored."""

import json

from typer.testing import CliRunner

from upweight.cli import app

WORDS = {"good": ["lovely", "great", "charming", "warm"], "bad": ["dull", "weak", "awful", "cold"]}


def upweight(*arguments, code=0):
    found = CliRunner().invoke(app, [str(part) for part in arguments])
    assert found.exit_code == code, found.output + found.stderr
    return found


def told(*arguments):
    return json.loads(upweight(*arguments, "--json").stdout)
