"""Docstrings as they are written: plain sentences, ``code`` in double backticks, equations as indented lines.

reStructuredText would take |S| for a substitution, * for emphasis and an indented equation for a quotation. Here an
indented paragraph of prose is shown as it stands, letter by letter, and marks outside of code are no marks.
"""

import re
from itertools import groupby, takewhile

CODE = re.compile(r"(``.+?``)")
MARKS = re.compile(r"([*|\\`])|(?<=\w)(_)(?=\W|$)")
TREE = ("├", "└", "│")
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Error and cost|Example|Examples|Note|Notes|Warns):\s*$")


def setup(app):
    """Before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", plain, priority=100)
    return {"version": "1", "parallel_read_safe": True}


def plain(app, what, name, obj, options, lines):
    """Rewrite the lines of a docstring in place."""
    head = list(takewhile(lambda line: not SECTION.match(line), lines))
    found = [line for paragraph in paragraphs(head) for line in shown(paragraph)]
    inside = ""
    for line in lines[len(head) :]:
        if opened := SECTION.match(line):
            inside = opened[1]
        found.append(line if opened or inside.startswith("Example") else escaped(line))
    lines[:] = found


def paragraphs(lines):
    """Runs of lines without an empty one."""
    return [list(run) for there, run in groupby(lines, key=lambda line: bool(line.strip())) if there]


def shown(paragraph):
    """A paragraph of prose, or an equation or a tree as it stands; equations in a row are one block each."""
    if paragraph[0].startswith("    "):
        return ["::", "", *paragraph, ""]
    if any(line.startswith(TREE) for line in paragraph):
        return ["::", "", *("    " + line for line in paragraph), ""]
    return [*map(escaped, paragraph), ""]


def escaped(line):
    """The same line with no mark but ``code``."""
    parts = CODE.split(line)
    return "".join(part if part.startswith("``") else MARKS.sub(r"\\\g<0>", part) for part in parts)
