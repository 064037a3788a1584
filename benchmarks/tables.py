"""Tables of the pages, written from the results beside the benchmarks: python benchmarks/tables.py"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rivals_tables

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
NOT_YET = "Not measured at this version: `make people` does."
PAGES = {"digits": "1,797 digits with pictures", "rows": "100,000 rows of ten numbers"}


def lines(name: str) -> list[dict[str, Any]]:
    """Results, one JSON object a line; none where they were not measured yet."""
    if not (HERE / name).exists():
        return []
    return [json.loads(line) for line in (HERE / name).read_text("utf-8").splitlines()]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def report_page() -> str:
    """Bytes and milliseconds of the report's page."""
    found = lines("report_page.jsonl")
    if not found:
        return NOT_YET
    head = [
        "page",
        "MB",
        "seconds to make",
        "ms until usable",
        "ms to sort all",
        "ms to search all",
        "elements",
        "heap MB",
    ]
    rows = [
        [
            PAGES[one["page"]],
            f"{one['bytes'] / 1e6:.2f}",
            f"{one['build_seconds']:.1f}",
            *(f"{one[name]:.0f}" for name in ("ready", "sort", "search")),
            f"{one['elements']:,.0f}",
            f"{one['heap'] / 1e6:.0f}",
        ]
        for one in found
    ]
    return f"Chromium {found[0]['browser']}, {found[0]['date']}, medians of five loads.\n\n{markdown(head, rows)}"


def desk() -> str:
    """The statistician's questions at n = 100,000 and p = 50."""
    found = lines("desk.jsonl")
    if not found:
        return NOT_YET
    rows = [[one["model"], one["question"], f"{one['seconds']:.2f}", f"{one['relative_error']:.0e}"] for one in found]
    return f"Measured {found[0]['date']}.\n\n{markdown(['model', 'question', 'processor seconds', 'relative error'], rows)}"


TABLES: dict[tuple[str, str], Callable[[], str]] = {
    ("report.md", "report_page"): report_page,
    ("statistics.md", "desk"): desk,
    ("rivals.md", "probed"): rivals_tables.probed,
    ("rivals.md", "offered"): rivals_tables.offered,
}
"""Page and marks between which the table stands."""


def with_tables(name: str) -> str:
    """A page with its tables as the results say."""
    page = (DOCS / name).read_text("utf-8")
    for (where, mark), table in TABLES.items():
        if where == name:
            between = re.compile(rf"(<!-- begin {mark} -->\n).*?(<!-- end {mark} -->)", re.S)
            found = between.search(page)
            assert found, f"docs/{name} has no marks for {mark}"
            page = page[: found.start()] + f"{found[1]}\n{table()}\n\n{found[2]}" + page[found.end() :]
    return page


if __name__ == "__main__":
    for name in dict.fromkeys(where for where, _ in TABLES):
        (DOCS / name).write_text(with_tables(name), "utf-8")
