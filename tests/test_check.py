"""check(): which points, which truth, and the one sentence that says whether to trust the scores."""

from __future__ import annotations

from functools import partial

import matplotlib as mpl
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

import upweight as uw
from cases import classification, fitted_mlp, regression
from upweight.evaluate import Refits, Retraining, Training, loo_agreement, noise_floor
from upweight.evaluate.calibration import Calibration, chosen_points
from upweight.evaluate.refits import best_truth

mpl.use("Agg")
RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((6, 25))


def calibration(predicted, refitted=REAL, **settings) -> Calibration:
    m, k = refitted.shape
    return Calibration(predicted, refitted, np.arange(m), np.arange(k), "loss", "nats", **settings)


def noisy(floor_runs: int = 3, size: float = 50.0):
    return noise_floor(REAL, size * np.random.default_rng(1).standard_normal((floor_runs, 6)))


SENTENCES = {
    "sizes and order": (calibration(1.1 * REAL), "Trust the sizes and the order of the scores."),
    "response": (calibration(1.1 * REAL, truth="pbrf"), "as arithmetic; it says nothing about λ or about retraining"),
    "order alone": (calibration(3 * REAL), "Trust the order of the scores and not their sizes, which are off by a factor of 0.33"),
    "neither": (calibration(REAL + 5 * RNG.standard_normal(REAL.shape)), "Do not trust the scores of single points here"),
    "turned": (calibration(-REAL), "run against the truth, as if their sign were turned"),
    "chance": (
        calibration(REAL + 5 * RNG.standard_normal(REAL.shape), noise=noisy(), standard_error=np.full(REAL.shape, 9.0)),
        "Cannot say: of the effects",
    ),
    "nothing moved": (calibration(0 * REAL), "Cannot say: nothing was predicted to move"),
}  # fmt: skip


@pytest.mark.parametrize("case", SENTENCES)
def test_one_sentence_says_whether_to_trust(case):
    found, words = SENTENCES[case]
    assert words in found.sentence and found.sentence.count(". ") == 0 and found.sentence.endswith(".")
    assert found.sentence in repr(found)
    assert ("Beware" in repr(found)) == bool(found.concerns)


def test_noise_that_does_not_hide_effects_is_no_excuse():
    quiet = calibration(REAL + 5 * RNG.standard_normal(REAL.shape), noise=noisy(size=1e-3))
    assert quiet.noise.share > 0.9 and "Do not trust" in quiet.sentence
    wrong = REAL + 5 * RNG.standard_normal(REAL.shape)
    paired = calibration(wrong, noise=noisy(), standard_error=np.full(REAL.shape, 1e-3))  # seed by seed they stand out
    assert paired.noise.share < 0.5 < paired.shown and "Do not trust" in paired.sentence
    edges = np.abs(REAL) / 4.3027  # t of two degrees of freedom at 97.5 %
    assert calibration(wrong, noise=noisy(), standard_error=0.99 * edges).shown == 1
    assert calibration(wrong, noise=noisy(), standard_error=1.01 * edges).shown == 0


def test_numbers_and_intervals_are_those_of_the_agreement():
    found = calibration(1.3 * REAL + 0.2 * RNG.standard_normal(REAL.shape))
    other = loo_agreement(found.predicted, found.refitted)
    for name in ("slope", "pearson", "spearman"):
        assert getattr(found, name) == pytest.approx(getattr(other, name).value)
        assert getattr(found.agreement, name).low == getattr(other, name).low
    assert f"({other.slope.low:.3g} to {other.slope.high:.3g})" in repr(found)
    table = found.per_query()
    line = np.polyfit(found.predicted[2], found.refitted[2], 1)
    assert table.slope[2] == pytest.approx(line[0]) and table.pearson[2] == pytest.approx(np.corrcoef(found.predicted[2], found.refitted[2])[0, 1])  # fmt: skip
    axes = calibration(REAL, truth="pbrf").plot()
    assert axes.get_ylabel() == "change after the proximal response" and "slope 1.000" in axes.get_title()
    assert found.plot(axes) is axes


@pytest.mark.parametrize(("n", "count"), [(200, 30), (31, 30), (30, 30), (5, 2), (1000, 7)])
def test_points_are_a_spread_over_predicted_sizes(n, count):
    values = RNG.standard_normal((3, n)) * np.geomspace(1, 1e-4, n)
    found = chosen_points(values, count, seed=0)
    assert len(found) == len(set(found.tolist())) == count
    ranks = np.empty(n, dtype=int)
    ranks[np.argsort(-np.abs(values).sum(0), kind="stable")] = np.arange(n)
    own = np.sort(ranks[found])
    assert own[0] == 0  # the most influential point is among them
    if n > 4 * count:
        for third in range(3):  # and every third of the ranks, at about its share of what is not the top
            inside = ((own >= third * n / 3) & (own < (third + 1) * n / 3)).sum()
            assert inside >= count // 2 // 3
        assert (own < n // 10).sum() >= count // 4  # more of the large ones
    np.testing.assert_array_equal(found, chosen_points(values, count, seed=0))


def test_the_truth_follows_the_model():
    data = classification(40, 3, 3, 3)
    convex = uw.from_sklearn(LogisticRegression(tol=1e-8).fit(data.X, data.y), data.X, data.y)
    assert best_truth(convex.fitted, None) == "refit"
    assert best_truth(fitted_mlp()[2].fitted, None) == "refit"  # a small network at a minimum
    torch.manual_seed(0)
    stopped = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    study = uw.Study(stopped, (data.X, data.y), loss="cross_entropy", curvature="ggn", damping=0.3)
    assert best_truth(study.fitted, None) == "pbrf" and best_truth(study.fitted, print) == "refit"
    with pytest.warns(uw.errors.NotStationaryWarning):
        found = study.check(data.query, refits=4, progress=False)
    assert found.truth == "pbrf" and "4 proximal responses" in repr(found)
    assert Refits(study, truth="refit").kind == "refit" and Refits(study).kind == "pbrf"
    assert fitted_mlp()[2].check(fitted_mlp()[1].query, refits=4, truth="pbrf", progress=False).truth == "pbrf"


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
def test_seeds_tell_what_can_be_seen_and_finished_ones_are_kept(tmp_path):
    data = classification(40, 3, 3, 3)
    build = lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()  # noqa: E731
    run = Training(build, (data.X, data.y), "cross_entropy", partial(torch.optim.SGD, lr=0.2), 3, 8)
    study = uw.Study(run.model(run(run.equal_weights, 0)), (data.X, data.y), loss="cross_entropy", curvature="ekfac")
    retraining = Retraining(run, tmp_path, progress=False)
    found = study.check(data.query, refits=4, seeds=3, train=retraining)
    assert found.noise.runs == 3 and len(list(tmp_path.glob("*.safetensors"))) == 15
    again = study.check(data.query, refits=4, seeds=3, train=Retraining(run, tmp_path, progress=False))
    np.testing.assert_array_equal(found.refitted, again.refitted)
    assert study.check(data.query, refits=4, train=run, progress=False).noise is None
    assert "Do not trust" in found.sentence or "Cannot say" in found.sentence
    with pytest.raises(uw.errors.ConfigError, match=r"refits=1. Expected at least 2"):
        study.check(data.query, refits=1)
    with pytest.raises(uw.errors.ConfigError, match=r"seeds=0. Expected a whole number of at least 1"):
        study.check(data.query, seeds=0)


def test_ids_of_one_s_own_are_found_again():
    data = classification(40, 3, 3)
    fitted = LogisticRegression(tol=1e-10).fit(data.X, data.y)
    named = uw.from_sklearn(fitted, data.X, data.y, ids=[f"row {i}" for i in range(40)])
    found = named.check(data.query, refits=6, progress=False)
    assert all(str(name).startswith("row ") for name in found.train_ids) and found.pearson > 0.999


def test_more_refits_than_points_are_said_to_be_all_of_them():
    data = regression()
    study = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    count = len(data.X)
    found = study.check(data.query, refits=10**4)
    assert found.asked == 10**4 and found.predicted.shape[1] == count
    assert f"Calibration on {count} (all there are: 10,000 were asked for) real refits" in repr(found)
    assert "asked for" not in repr(study.check(data.query, refits=3))
