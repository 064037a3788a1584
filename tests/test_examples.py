"""The examples and the README's code run as written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short(path):
    assert len(path.read_text("utf-8").splitlines()) < 80


def test_the_label_errors_example_finds_most_and_correcting_them_helps():
    printed = run((ROOT / "examples" / "label_errors.py").read_text("utf-8"))
    found = int(re.search(r"(\d+) of the 60 wrong labels", printed).group(1))
    assert found >= 45
    before, after = map(float, re.search(r"loss ([\d.]+) as fitted, ([\d.]+) after", printed).groups())
    assert after < 0.95 * before


def test_the_network_example_says_how_far_to_believe_it():
    printed = run((ROOT / "examples" / "network.py").read_text("utf-8"))
    for words in ("Conv2d", "Effects (20 × 400)", "ranking at ten times", "judged on others", "10 retrainings"):
        assert words in printed
    assert int(re.search(r"(\d+)% of the held-out digits", printed).group(1)) >= 80


def test_the_readme_s_code_prints_what_it_says():
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    printed = run(first + second)
    for words in ("Effects (20 × 469)", "rank", "loss_rank", "Calibration on 20 real refits", "stationarity"):
        assert words in printed


def test_the_treatment_effect_example_names_the_men_it_hangs_on():
    printed = run((ROOT / "examples" / "treatment_effect.py").read_text("utf-8"))
    assert "Leaving out 3 points (0.67%) would take its significance away" in printed
    assert "Leaving out 15 points (3.37%) would change its sign" in printed
    assert re.search(r"refitted without those 15 men: \$-\d+ a year", printed)


def test_the_page_on_statistics_runs_as_written():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "statistics.md").read_text("utf-8"), re.S)
    printed = run("\n".join(blocks))
    for words in ("would change its sign", "CrossValidation of 469 points", "standard error", "the auc", "l2"):
        assert words in printed
