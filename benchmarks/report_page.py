"""The report's page: bytes, and seconds until it can be used, at 1,797 digits and at 100,000 rows.

    python benchmarks/report_page.py          # prints one JSON line a page; `make people` keeps them and writes the table

Needs Chromium and playwright. Times are medians of five loads; sorting and searching are over all rows.
"""

from __future__ import annotations

import datetime
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import upweight as uw

LOADS = 5
MEASURE = """() => {
    const change = (id, value) => {
        const start = performance.now();
        document.getElementById(id).value = value;
        document.getElementById(id).dispatchEvent(new Event('change'));
        return performance.now() - start;
    };
    document.getElementById('search').value = '99';
    const search = change('filter', 'all');
    document.getElementById('search').value = '';
    change('filter', 'all');
    return {
        ready: performance.getEntriesByName('ready')[0].startTime,
        sort: change('sort', 'loss'),
        search,
        elements: document.getElementsByTagName('*').length,
        heap: performance.memory.usedJSHeapSize,
    };
}"""


def digits(path: Path) -> None:
    """All 1,797 digits to train on, as pictures; a tenth of them asked about again."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    fitted = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(X, y)
    uw.from_sklearn(fitted, X, y).report(path, query=(X[:180], y[:180]), display="images", refits=10)


def rows(path: Path) -> None:
    """100,000 rows of ten numbers in three classes."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100_000, 10))
    y = (X @ rng.standard_normal((10, 3)) + rng.gumbel(size=(100_000, 3))).argmax(1)
    fitted = LogisticRegression(tol=1e-8, max_iter=500).fit(X, y)
    uw.from_sklearn(fitted, X, y).report(path, query=(X[:500], y[:500]), refits=10)


def measured(browser: Any, path: Path) -> dict[str, float]:
    """Medians over loads, in milliseconds, bytes and counts."""
    found = []
    for _ in range(LOADS):
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]", state="attached")
        found.append(page.evaluate(MEASURE))
        page.close()
    return {name: round(statistics.median(one[name] for one in found), 1) for name in found[0]}


def main() -> None:
    """Build, load, print."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"],
        )
        for build in (digits, rows):
            path, started = Path(folder) / f"{build.__name__}.html", time.perf_counter()
            build(path)
            seconds = round(time.perf_counter() - started, 2)
            about = {"date": datetime.date.today().isoformat(), "browser": browser.version}
            line = about | {"page": build.__name__, "bytes": path.stat().st_size, "build_seconds": seconds}
            print(json.dumps(line | measured(browser, path)))
        browser.close()


if __name__ == "__main__":
    main()
