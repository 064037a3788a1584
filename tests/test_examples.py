"""The examples run as scripts, cell by cell, print what is true, and draw one figure each."""

import re
import runpy
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_in_cells(path):
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) < 100
    assert lines[1] == "=" * len(lines[1]) and len(lines[1]) >= len(lines[0].removeprefix('"""'))
    cells = [place for place, line in enumerate(lines) if line == "# %%"]
    assert len(cells) >= 3 and all(re.match("# [A-Z]", lines[place + 1]) for place in cells)


@pytest.fixture
def run(monkeypatch, capsys):
    """What an example prints; its figure is drawn and closed."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")

    def printed(name: str) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        assert len(pyplot.get_fignums()) == 1
        pyplot.gcf().canvas.draw()
        return capsys.readouterr().out

    yield printed
    pyplot.close("all")


def test_the_label_errors_example_finds_most_and_correcting_them_helps(run):
    printed = run("label_errors.py")
    found = int(re.search(r"(\d+) of the 60 wrong labels", printed).group(1))
    assert found >= 45
    before, after = map(float, re.search(r"loss ([\d.]+) as fitted, ([\d.]+) after", printed).groups())
    assert after < 0.95 * before
    predicted, refitted = map(
        float, re.search(r"predicted to fall by ([\d.]+)\. Really refitted: it fell by ([\d.]+)\.", printed).groups()
    )
    assert abs(predicted / refitted - 1) < 0.05 and abs((before - after) / refitted - 1) < 0.05


def test_the_network_example_says_how_far_to_believe_it(run):
    printed = run("network.py")
    for words in ("Conv2d", "Effects (20 × 400)", "ranking at ten times", "judged on others", "10 retrainings"):
        assert words in printed
    assert int(re.search(r"(\d+)% of the held-out digits", printed).group(1)) >= 80


def test_the_treatment_effect_example_names_the_men_it_hangs_on(run):
    printed = run("treatment_effect.py")
    assert "Leaving out 3 points (0.67%) would take its significance away" in printed
    assert "Leaving out 15 points (3.37%) would change its sign" in printed
    assert re.search(r"refitted without those 15 men: \$-\d+ a year", printed)


def test_the_example_of_an_answer_is_borne_out_by_training_again(run):
    printed = run("why_that_answer.py")
    before, predicted, after = map(
        float, re.search(r"margin (\S+); without the twenty predicted (\S+), retrained (\S+)", printed).groups()
    )
    assert before < 0 and predicted - before > 0.5 and 0.5 < (after - before) / (predicted - before) < 1.5
    assert re.search(r"it is a (\d), was read as a (?!\1)\d, and is read as a \d after", printed)
