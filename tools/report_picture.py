"""A picture of the demonstration's page, for the README and the site: python tools/report_picture.py

Needs Chromium (`make browser`). Writes docs/_static/report.webp.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from upweight.demo import run_demo

OUT = Path(__file__).resolve().parent.parent / "docs" / "_static" / "report.webp"
SIZE = {"width": 1180, "height": 1080}


def main() -> None:
    """Make the page, look at its suspects, keep what is seen."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        run_demo(Path(folder), 0, None)
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto((Path(folder) / "report.html").as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        page.wait_for_timeout(1500)
        seen = page.screenshot()
        browser.close()
    Image.open(io.BytesIO(seen)).save(OUT, quality=82, method=6)
    print(f"{OUT.name}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
