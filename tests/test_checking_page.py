"""The code of docs/checking.md runs from top to bottom and prints what the page says."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_s_code_runs_from_top_to_bottom(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "checking.md").read_text("utf-8"), re.S)
    assert len(blocks) == 7
    script = "import warnings; warnings.simplefilter('ignore')\n" + "\n".join(blocks)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    for words in (
        "Calibration on 20 proximal responses × 40 queries",
        "Calibration on 10 real refits × 40 queries",
        "6 ['0.weight', '0.bias', '2.weight', '2.bias']",
        "two-sample t-test",
        "LDS 0.",
        "Comparison, difference",
        "15 wrong labels among 300",
        "Brittleness of 3 predictions",
        "Mean over 3 models",
    ):
        assert words in found.stdout, found.stdout
    assert (tmp_path / "truth.npz").exists() and len(list((tmp_path / "runs").glob("*.safetensors"))) > 20
