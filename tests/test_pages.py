"""The code on the pages about indexes and methods runs as written, and prints what the pages say it does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def run(script: str, folder: Path) -> str:
    command = [sys.executable, "-W", "ignore", "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert found.returncode == 0, found.stderr
    return found.stdout


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.S)


def test_the_page_about_indexes_runs(tmp_path):
    printed = run("\n".join(blocks("index-store.md")), tmp_path)
    for words in ("Index of 2,000 training points", "400 of 1,604 numbers", "10 appended, 2 deleted"):
        assert words in printed
    assert re.search(r"^True ", printed, re.M)
    assert (tmp_path / "index" / "manifest.json").is_file()


def test_every_line_of_the_table_of_methods_runs(tmp_path):
    text = (DOCS / "methods.md").read_text("utf-8")
    lines = re.findall(r"^\|.*\| `(.*)` \|$", text, re.M)
    assert len(lines) == 13
    shown = "".join(f"print(tuple(({line}).shape))\n" for line in lines)
    inline = "print(tuple((uw.rows(Q) @ uw.linop.Gaussian(Q.space.size, 64)).shape))\n"
    printed = run("\n".join(blocks("methods.md")) + "\n" + shown + inline, tmp_path).split("\n")
    expected = ["(2, 200)"] * 10 + ["(1, 2)", "(2, 200)", "(2, 2)", "(200, 64)", ""]
    assert printed == expected
