"""Figures hold the numbers they were made from, in the axes they were given."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
from matplotlib import pyplot as plt
from sklearn.linear_model import LogisticRegression, Ridge

import upweight as uw
from cases import classification, regression


@pytest.fixture(scope="module")
def study():
    data = classification(n=50, classes=3)
    return uw.from_sklearn(LogisticRegression(tol=1e-10).fit(data.X, data.y), data.X, data.y), data


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_bars_are_the_effects_of_one_query(study):
    of, data = study
    effects = of.drop(data.query)
    ax = plt.subplots()[1]
    shown = uw.EffectsDisplay.from_effects(effects, query=2, k=4, ax=ax)
    assert shown.ax_ is ax and shown.figure_ is ax.figure and shown.plot(ax=plt.subplots()[1]) is shown
    widths = [bar.get_width() for bar in shown.bars_]
    up, down = (frame[frame["query"] == 2] for frame in (effects.raises(4), effects.lowers(4)))
    np.testing.assert_allclose(widths, [*up["effect"], *down["effect"][::-1]])
    assert shown.names == [str(name) for name in [*up["train"], *down["train"][::-1]]]
    assert "query 2" in ax.get_title() and "nats" in ax.get_xlabel()
    with pytest.raises(uw.errors.IndexOutOfRange, match="no query is called 99"):
        uw.EffectsDisplay.from_effects(effects, query=99)
    with pytest.raises(uw.errors.ConfigError, match="k=0"):
        uw.EffectsDisplay.from_effects(effects, k=0)


def test_the_scatter_is_the_calibration(study):
    of, data = study
    found = of.check(data.query, refits=6)
    shown = uw.CalibrationDisplay.from_calibration(found)
    np.testing.assert_allclose(
        np.asarray(shown.dots_.get_offsets()), np.stack([found.predicted.ravel(), found.refitted.ravel()], 1)
    )
    low, high = shown.line_.get_xdata()
    assert low == min(found.predicted.min(), found.refitted.min()) and high >= found.predicted.max()
    assert found.plot().get_title() == shown.ax_.get_title() == f"slope {found.slope:.3f} · Pearson {found.pearson:.4f}"


def test_suspects_are_told_apart_by_shape_too(study):
    of, _ = study
    frame = of.mislabeled(50)
    shown = uw.SuspectsDisplay.from_mislabeled(frame, named=2)
    wrong = frame["label"] != frame["predicted"]
    agree, disagree = (np.asarray(dots.get_offsets()) for dots in shown.dots_)
    np.testing.assert_allclose(disagree, frame.loc[wrong, ["loss", "self_influence"]].to_numpy())
    assert len(agree) == int((~wrong).sum()) and [text.get_text() for text in shown.ax_.texts] == [
        str(frame["train"][0]),
        str(frame["train"][1]),
    ]
    data = regression(n=20)
    numbers = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y).mislabeled(20)
    assert len(uw.SuspectsDisplay.from_mislabeled(numbers).dots_) == 1


def test_names_are_not_read_as_formulas():
    data = classification(n=30)
    names = [f"$\\frac{{1}}{{{i}}}$" + "long" * 20 for i in range(30)]
    of = uw.from_sklearn(LogisticRegression(tol=1e-10).fit(data.X, data.y), data.X, data.y, ids=names)
    shown = uw.EffectsDisplay.from_effects(of.drop(data.query))
    shown.figure_.canvas.draw()
    assert all(len(name) <= 24 and "\\$" in name for name in shown.names)


def test_notebooks_show_the_strongest(study):
    of, data = study
    effects = of.drop(data.query)
    words = effects._repr_html_()
    first = effects.raises(1).iloc[0]
    assert f"{int(first['train'])} ({first['effect']:+.3g})" in words and "predicted change" in words
    many = of.drop((np.tile(data.Xt, (3, 1)), np.tile(data.yt, 3)))
    assert "7 more rows" in many._repr_html_()
    assert "50 training points" in of._repr_html_()
