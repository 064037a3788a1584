"""Every equation of docs/equations.md is where the page says, and has the test the page names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "upweight"
LINES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "equations.md").read_text("utf-8").splitlines()
    if "::test_" in line
]
ROWS = [row for row in LINES if not row[0].startswith("`")]
NAMED = [row for row in LINES if row[0].startswith("`")]


@pytest.mark.parametrize(("tag", "statement", "file", "test"), ROWS, ids=[row[0] for row in ROWS])
def test_an_equation_is_where_the_page_says(tag, statement, file, test):
    text = (SOURCE / file).read_text("utf-8")
    assert tag in tags(text) if tag.startswith("KL17") else f"[{tag}]" in text
    path, name = test.split("::")
    assert f"def {name}(" in (ROOT / path).read_text("utf-8")


@pytest.mark.parametrize(("name", "statement", "file", "test"), NAMED, ids=[row[0] for row in NAMED])
def test_an_approximation_is_computed_where_the_page_says(name, statement, file, test):
    source = (SOURCE / file).read_text("utf-8")
    assert re.search(rf"^(def|class) {name.strip('`')}\b", source, re.MULTILINE)
    path, function = test.split("::")
    assert f"def {function}(" in (ROOT / path).read_text("utf-8")


def test_no_tag_of_the_source_is_missing_from_the_page():
    used = set().union(*(tags(path.read_text("utf-8")) for path in SOURCE.rglob("*.py")))
    listed = {tag for tag, *_ in ROWS}
    assert used <= listed


def tags(text: str) -> set[str]:
    """Tags in square brackets: [KL17 A1, A7] is two of them, a range stays one."""
    found = set()
    for inside in re.findall(r"\[KL17 ([^\]]+)\]", text):
        for part in inside.replace("eq. ", "eq.\N{NO-BREAK SPACE}").split(","):
            word = part.strip().split(" ")[0] if not part.strip().startswith("eq.") else part.strip()
            if re.fullmatch(r"A\d+(-A\d+)?|eq\.\N{NO-BREAK SPACE}\d+|\d(\.\d)?", word):
                found.add(f"KL17 {word}".replace("\N{NO-BREAK SPACE}", " "))
    return found
