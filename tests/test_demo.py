"""The demonstration, the report and the command line, on a small part of the digits."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

import upweight as uw
from cases import classification
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
    page = (tmp_path / "report.html").read_text("utf-8")
    assert f"{found.slope:.4f}" in page and page.count("<img") == 49
    assert page.count('class="planted"') == int(page.split("shown, ")[1].split(" are")[0])


def test_the_command_line_talks_on_stderr_and_prints_data_on_stdout(quick, tmp_path):
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0
    outcome = json.loads(result.stdout)
    assert outcome["planted"] == 25 and outcome["page"].endswith("report.html")
    assert "Fitting" in result.stderr
    text = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path)]).stdout
    assert f"{outcome['found']} of 25 planted" in text and "refitted =" in text


def test_the_page_escapes_data_and_loads_nothing(tmp_path):
    data = classification(n=60)
    names = np.array(["<script>alert(1)</script>", "b"])
    fitted = LogisticRegression(tol=1e-10).fit(data.X, names[data.y])
    study = uw.from_sklearn(fitted, data.X, names[data.y])
    path = study.report(tmp_path / "page.html", query=(data.Xt, names[data.yt]), refits=4)
    page = Path(path).read_text("utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page and "http://" not in page and "https://" not in page
    with pytest.raises(uw.errors.ShapeError, match="one each"):
        study.report(tmp_path / "page.html", query=(data.Xt, names[data.yt]), images=np.zeros((3, 2, 2)))


def test_images_belong_to_their_points_also_under_ids_of_their_own(tmp_path):
    data = classification(n=30)
    fitted = LogisticRegression(tol=1e-10).fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y, ids=[f"p{i}" for i in range(30)])
    path = study.report(
        tmp_path / "page.html", query=data.query, images=np.arange(30 * 4).reshape(30, 2, 2), refits=4, truth=["p3"]
    )
    assert "among the 1 labels known to be wrong" in Path(path).read_text("utf-8")
