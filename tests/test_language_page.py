"""The code of docs/language-models.md runs from top to bottom, and its tables are those that were generated."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
ROOT = Path(__file__).resolve().parent.parent


def test_the_page_s_code_runs_from_top_to_bottom(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "language-models.md").read_text("utf-8"), re.S)
    assert len(blocks) == 8
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(blocks)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    printed = (
        "Linear ",
        "(2, 2, 19) True",
        "Recording of 10 steps in 2 epochs",
        "(2, 40)",
        "rounding",
    )
    for words in printed:
        assert words in found.stdout, found.stdout
    assert '"heat"' in (tmp_path / "report.html").read_text("utf-8")
