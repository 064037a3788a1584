"""An optional library that is not installed is named, with the command that installs it."""

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import upweight as uw
from cases import regression
from upweight import demo
from upweight.cli.about import EXTRAS


@pytest.fixture(scope="module")
def study():
    data = regression()
    return uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y), data


def without(monkeypatch, *modules):
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


CASES = {
    "xarray": (["xarray"], lambda s, d: s.drop(d.query).to_xarray()),
    "plot": (["matplotlib.pyplot"], lambda s, d: s.check(d.query, refits=2).plot()),
    "images": (["PIL"], lambda s, d: uw.show.Images(np.zeros((1, 2, 2))).of_train(0)),
    "sklearn": (["sklearn.exceptions"], lambda s, d: uw.from_sklearn(Ridge(), d.X, d.y)),
    "demo": (["sklearn.datasets"], lambda s, d: demo.planted_digits()),
    "hf": (
        ["transformers", "upweight.adapters.huggingface.callback"],
        lambda s, d: uw.huggingface.recorder("kept"),
    ),
}


OFFERED = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize("case", CASES)
def test_a_missing_extra_says_how_to_install_it(case, study, monkeypatch):
    modules, ask = CASES[case]
    extra = "sklearn" if case == "demo" else case
    assert extra in OFFERED
    without(monkeypatch, *modules)
    with pytest.raises(
        uw.errors.MissingExtraError, match=rf"not installed. Install it with: pip install 'upweight\[{extra}\]'"
    ):
        ask(*study)


def test_the_doctor_looks_for_what_every_extra_installs():
    found = {extra: [re.split("[<>=]", wanted)[0] for wanted in packages] for extra, packages in OFFERED.items()}
    assert found == {extra: list(names) for extra, names in EXTRAS.items()}


def test_messages_and_pages_name_extras_that_exist():
    root = Path(__file__).parent.parent
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "src").rglob("*.py")]
    named = {
        extra
        for page in pages
        for found in re.findall(r"(?:upweight|\.)\\?\\?\[([a-z,]+)\]['\"]", page.read_text("utf-8"))
        for extra in found.split(",")
    }
    assert {"hf", "sklearn", "plot"} <= named <= set(OFFERED)
