"""Docstrings as they are written: plain sentences, ``code`` in double backticks, equations as indented lines.

reStructuredText would take |S| for a substitution, * for emphasis and an indented equation for a quotation. Here an
indented paragraph of prose is shown as it stands, letter by letter, and marks outside of code are no marks.
"""

import re
from itertools import takewhile

CODE = re.compile(r"(``.+?``)")
MARKS = re.compile(r"([*|\\`])|(?<=\w)(_)(?=\W|$)")
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Error and cost|Example|Examples|Note|Notes|Warns):\s*$")


def setup(app):
    """Before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", plain, priority=100)
    return {"version": "1", "parallel_read_safe": True}


def plain(app, what, name, obj, options, lines):
    """Rewrite the lines of a docstring in place."""
    head = list(takewhile(lambda line: not SECTION.match(line), lines))
    found = equations([escaped(line) for line in head], head)
    inside = ""
    for line in lines[len(head) :]:
        if opened := SECTION.match(line):
            inside = opened[1]
        found.append(line if opened or inside.startswith("Example") else escaped(line))
    lines[:] = found


def equations(lines, raw):
    """Indented paragraphs as literal blocks, what is between two sentences as it was written."""
    found, literal = [], False
    for line, as_written in zip(lines, raw, strict=True):
        indented = as_written.startswith("    ") and as_written.strip()
        if indented and not literal:
            found += ["::", ""]
        literal = bool(indented) or (literal and not as_written.strip())
        found.append(as_written if literal else line)
    return found


def escaped(line):
    """The same line with no mark but ``code``."""
    parts = CODE.split(line)
    return "".join(part if part.startswith("``") else MARKS.sub(r"\\\g<0>", part) for part in parts)
