"""The demonstration, on a small part of the digits."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pages import data_of, unpacked
from upweight import cli, demo


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(demo, "REFITS", 6)
    monkeypatch.setattr(demo, "HELD_OUT", 1300)


def test_planted_labels_are_wrong_and_the_rest_are_right():
    digits = demo.planted_digits(3)
    assert len(digits.planted) == round(0.05 * 1437) == 72
    assert (digits.train[1] != digits.labels).nonzero()[0].tolist() == digits.planted.tolist()
    assert demo.planted_digits(3).planted.tolist() == digits.planted.tolist() != demo.planted_digits(4).planted.tolist()


@pytest.mark.filterwarnings("ignore:.*lbfgs failed:UserWarning")
def test_the_demonstration_counts_what_it_finds(quick, tmp_path):
    found = demo.run_demo(tmp_path, progress=False)
    assert found.planted == 25 and found.refits == 6
    assert 8 < found.found <= 25
    assert found.pearson > 0.99 and found.slope == pytest.approx(1, abs=0.1)
    data = data_of((tmp_path / "report.html").read_text("utf-8"))
    assert data["calibration"]["figures"][0][:2] == ["slope", f"{found.slope:.4f}"]
    assert len(unpacked(data["points"]["known"])) == 25 and len(data["looks"]["items"]) == 497
    first = np.argsort(-unpacked(data["points"]["influence"]), kind="stable")[:25]
    assert len(set(first) & set(unpacked(data["points"]["known"]))) == found.found


def test_the_command_prints_data_on_stdout_and_talks_on_stderr(quick, tmp_path):
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0
    outcome = json.loads(result.stdout)
    assert outcome["planted"] == 25 and outcome["page"].endswith("report.html")
    assert "Fitting" in result.stderr
    text = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path)]).stdout
    assert f"{outcome['found']} of 25 planted" in text and "refitted =" in text
