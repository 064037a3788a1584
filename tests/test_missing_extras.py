"""An optional library that is not installed is named, with the command that installs it."""

import sys

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import upweight as uw
from cases import regression
from upweight import demo


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
    "huggingface": (
        ["transformers", "upweight.adapters.huggingface.callback"],
        lambda s, d: uw.huggingface.recorder("kept"),
    ),
    "demo": (["sklearn.datasets"], lambda s, d: demo.planted_digits()),
}


@pytest.mark.parametrize("extra", CASES)
def test_a_missing_extra_says_how_to_install_it(extra, study, monkeypatch):
    modules, ask = CASES[extra]
    without(monkeypatch, *modules)
    with pytest.raises(
        uw.errors.MissingExtraError, match=rf"not installed. Install it with: pip install 'upweight\[{extra}\]'"
    ):
        ask(*study)
