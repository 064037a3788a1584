"""The field's scores by their definitions, their intervals and ceilings by simulation, and what they refuse."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from statsmodels.stats.power import TTestIndPower
from torch import nn

import upweight as uw
from cases import classification, regression
from upweight.errors import ConfigError, NonFiniteInput, ShapeError, SignWarning, StoreError
from upweight.evaluate import (
    Estimate,
    Retraining,
    SubsetTruth,
    Training,
    brittleness,
    compare,
    lds,
    loo_agreement,
    mislabel_detection,
    noise_floor,
    random_subsets,
    subset_truth,
)
from upweight.evaluate.datamodeling import rank_correlations, reliability
from upweight.evaluate.noise import retrainings_needed, smallest_seen

mpl.use("Agg")
RNG = np.random.default_rng(0)
FEW = 40
"""Resamples where only the value is looked at."""


# --- agreement -------------------------------------------------------------------------------------------------------


def test_agreement_is_scipy_s_slope_and_correlations():
    real = RNG.standard_normal((4, 12))
    predicted = 0.7 * real + 0.3 * RNG.standard_normal((4, 12))
    found = loo_agreement(predicted, real, draws=FEW)
    line = stats.linregress(predicted.ravel(), real.ravel())
    assert found.slope.value == pytest.approx(line.slope) and found.pearson.value == pytest.approx(line.rvalue)
    assert found.spearman.value == pytest.approx(stats.spearmanr(predicted.ravel(), real.ravel())[0])
    assert (found.queries, found.changes) == (4, 12) and "4 queries × 12 changes" in repr(found)
    assert found.slope.low < found.slope.value < found.slope.high and len(found.slope.draws) == FEW


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Queries and changes have effects of their own, so resampling either alone would be far too sure of itself."""
    held, generator = [], np.random.default_rng(1)
    for _ in range(60):
        weights = generator.standard_normal((15, 1)) ** 2 + 0.2
        x = generator.standard_normal((15, 25))
        y = x * (1 + 0.5 * generator.standard_normal((15, 1))) * weights + 0.3 * generator.standard_normal((1, 25))
        found = loo_agreement(x * weights, y, draws=100).slope
        held.append(found.low <= 1 <= found.high)
    assert 0.8 <= np.mean(held) <= 1.0
    small = loo_agreement(x[:, :6] * weights, y[:, :6], draws=300).slope
    assert small.high - small.low > found.high - found.low


def test_a_flat_prediction_has_no_slope_and_no_interval():
    found = loo_agreement(np.zeros((2, 5)), RNG.standard_normal((2, 5)), draws=FEW)
    assert np.isnan(found.slope.value) and np.isnan(found.pearson.low) and "nan" in repr(found)


@pytest.mark.parametrize(
    ("predicted", "error", "message"),
    [
        (
            np.ones((5, 3)),
            ShapeError,
            r"shape \(5, 3\) and refitted ones of shape \(3, 5\).* It looks transposed; pass scores.T",
        ),
        (np.ones((3, 4)), ShapeError, r"\(3, 4\) and refitted ones of shape \(3, 5\). Expected \(m, k\) for both"),
        (np.full((3, 5), np.nan), NonFiniteInput, r"15 predicted changes that are not finite. Expected finite"),
    ],
)
def test_scores_that_do_not_fit_are_refused(predicted, error, message):
    with pytest.raises(error, match=message):
        loo_agreement(predicted, RNG.standard_normal((3, 5)))


def test_a_turned_sign_is_warned_of():
    real = RNG.standard_normal((5, 20))
    with pytest.warns(SignWarning, match=r"clearly below zero. Expected a predicted change .* negate scores"):
        loo_agreement(-real, real, draws=FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loo_agreement(RNG.standard_normal((5, 20)), real, draws=FEW)


# --- LDS -------------------------------------------------------------------------------------------------------------


def simulated(seeds: int = 4, noise: float = 0.0, subsets: int = 40, n: int = 30, m: int = 5, seed: int = 0):
    """A linear world: outputs of a subset are what its points add, and noise of each seed; effects of a drop in it."""
    rng = np.random.default_rng(seed)
    effects = rng.standard_normal((m, n))
    kept = random_subsets(n, subsets, 0.5, seed)
    outputs = (1 - 2 * kept) @ effects.T + noise * rng.standard_normal((seeds, subsets, m))
    return SubsetTruth.of(kept, outputs), effects


def test_lds_is_its_definition_query_by_query():
    truth, effects = simulated(noise=3.0)
    scores = effects + 2 * np.random.default_rng(1).standard_normal(effects.shape)
    found = lds(scores, truth, draws=FEW)
    added_up = truth.kept @ -scores.T  # what the points that are there do, the field's own sign
    expected = [stats.spearmanr(added_up[:, q], truth.mean[:, q])[0] for q in range(5)]
    np.testing.assert_allclose(found.per_query, expected, atol=1e-12)
    assert found.score.value == pytest.approx(np.mean(expected)) and 0 < found.score.value < 1
    assert lds(effects, truth, draws=FEW).score.value > found.score.value
    assert "LDS 0." in repr(found) and "40 subsets of 30 points (50% kept) × 4 seeds × 5 queries" in repr(found)


def test_perfect_scores_of_a_linear_world_have_lds_and_slope_one():
    truth, effects = simulated()
    found = lds(effects, truth, draws=FEW)
    assert found.score.value == pytest.approx(1) and found.slope.value == pytest.approx(1)
    assert found.ceiling == pytest.approx(1) and lds(0.5 * effects, truth, draws=FEW).slope.value == pytest.approx(2)
    with pytest.warns(SignWarning, match="retrained subsets"):
        assert lds(-effects, truth, draws=FEW).score.value == pytest.approx(-1)


def test_the_ceiling_is_what_a_perfect_score_reaches():
    """Signal variance 30 per query, noise variance 60 a seed: the reliability of a mean of s seeds is 30/(30 + 60/s)."""
    for seeds in (2, 5):
        reliabilities, perfect = [], []
        for world in range(12):
            truth, effects = simulated(seeds, 60**0.5, subsets=100, m=10, seed=world)
            reliabilities.append(reliability(truth.outputs))
            perfect.append(float(np.mean(rank_correlations(truth.predicted(effects), truth.mean))))
        expected = 30 / (30 + 60 / seeds)
        assert np.mean(reliabilities) == pytest.approx(expected, abs=0.04)  # ranks of normal numbers lose a little
        assert np.mean(perfect) == pytest.approx(np.mean(reliabilities) ** 0.5, abs=0.025)


def test_one_seed_says_nothing_of_the_ceiling():
    found = lds(simulated()[1], simulated(seeds=1)[0], draws=FEW)
    assert np.isnan(found.reliability) and "ceiling unknown from one seed" in repr(found)


def test_queries_that_never_move_are_left_out_and_flat_scores_count_as_nothing():
    truth, effects = simulated()
    outputs = truth.outputs.copy()
    outputs[:, :, 2] = 7.0
    effects = effects.copy()
    effects[0] = 0.0
    found = lds(effects, replace(truth, outputs=outputs), draws=FEW)
    assert np.isnan(found.per_query[2]) and found.per_query[0] == 0
    assert found.score.value == pytest.approx(np.nanmean(found.per_query))


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (np.ones((30, 5)), ShapeError, r"shape \(30, 5\). Expected \(5, 30\).* It looks transposed; pass scores.T"),
        (np.ones(30), ShapeError, r"shape \(30,\). Expected \(5, 30\): a row a query"),
        (np.full((5, 30), np.inf), NonFiniteInput, r"150 scores that are not finite"),
    ],
)
def test_scores_that_do_not_fit_a_truth_are_refused(scores, error, message):
    with pytest.raises(error, match=message):
        lds(scores, simulated()[0])


@pytest.mark.parametrize(
    ("kept", "outputs", "error", "message"),
    [
        (np.ones((3, 4)) * 0.5, np.ones((2, 3, 1)), ShapeError, r"masks of shape \(3, 4\) and type float64"),
        (
            np.ones((3, 4), bool),
            np.ones((2, 5, 1)),
            ShapeError,
            r"outputs of shape \(2, 5, 1\) .*Expected \(seeds, 3, 1\)",
        ),
        (np.ones(4, bool), np.ones((2, 3)), ShapeError, r"masks of shape \(4,\) and outputs .* Expected \(r, n\)"),
        (np.ones((3, 4), bool), np.full((2, 3, 1), np.nan), NonFiniteInput, r"retrained models that are not finite"),
    ],
)
def test_a_truth_that_does_not_line_up_is_refused(kept, outputs, error, message):
    with pytest.raises(error, match=message):
        SubsetTruth.of(kept, outputs)
    with pytest.raises(ConfigError, match=r"lds found 2 subsets. Expected at least 3"):
        lds(np.ones((1, 4)), SubsetTruth.of(np.eye(2, 4), np.ones((2, 1))))


def test_subsets_are_drawn_without_replacement_and_of_one_size():
    found = random_subsets(100, 50, 0.29, seed=3)
    assert found.shape == (50, 100) and (found.sum(1) == 29).all() and len(np.unique(found, axis=0)) == 50
    np.testing.assert_array_equal(found, random_subsets(100, 50, 0.29, seed=3))
    for alpha, count in ((1.0, 5), (0.001, 5), (0.5, 0)):
        with pytest.raises(
            ConfigError, match=rf"alpha={alpha} of 100 points and count={count}. Expected 0 < alpha < 1"
        ):
            random_subsets(100, count, alpha)


def test_a_linear_model_s_first_order_effects_follow_its_retrained_subsets():
    data = classification(200, 4, 12, seed=3)
    study = uw.from_sklearn(LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(data.X, data.y), data.X, data.y)
    truth = subset_truth(study, data.query, count=20, alpha=0.9, progress=False)
    again = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(data.X[truth.kept[7]], data.y[truth.kept[7]])
    own = -np.log(again.predict_proba(data.Xt)[np.arange(12), data.yt])
    np.testing.assert_allclose(truth.outputs[0, 7], own, atol=1e-6)
    found = lds(study.drop(data.query, order="first"), truth, draws=FEW)
    assert truth.seeds == 1 and found.score.value > 0.97 and 0.85 < found.slope.value < 1.35


def recipe(data, **settings) -> Training:
    made = {"optimizer": partial(torch.optim.SGD, lr=0.3, weight_decay=0.01), "epochs": 3, "batch_size": 10} | settings
    return Training(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double(), (data.X, data.y), "cross_entropy", **made)  # fmt: skip


def studied(run: Training, data) -> uw.Study:
    model = run.model(run(run.equal_weights, 0))
    return uw.Study(model, (data.X, data.y), loss="cross_entropy", penalty=uw.L2(0.01), curvature="ekfac")


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
def test_a_truth_is_retrained_saved_and_scored_without_the_model(tmp_path):
    data = classification(40, 3, 6, 3)
    run = recipe(data)
    study, retraining = studied(run, data), Retraining(run, tmp_path / "runs", progress=False)
    truth = subset_truth(study, data.query, train=retraining, count=5, seeds=2, measure="margin")
    assert len(list((tmp_path / "runs").glob("*.safetensors"))) == 12  # five subsets and everything, from two seeds
    weights = np.where(truth.kept[3], 1 / 20, 0.0)
    outputs = run.model(run(weights, 1))(torch.as_tensor(data.Xt))
    logp = torch.log_softmax(outputs, 1)[range(6), data.yt]
    margin = (logp - torch.log1p(-logp.exp())).detach().numpy()
    np.testing.assert_allclose(truth.outputs[1, 3], margin, atol=1e-9)
    whole = torch.log_softmax(run.model(run(run.equal_weights, 1))(torch.as_tensor(data.Xt)), 1)[range(6), data.yt]
    np.testing.assert_allclose(truth.before[1], (whole - torch.log1p(-whole.exp())).detach().numpy(), atol=1e-9)
    truth.save(tmp_path / "truth.npz")
    effects = study.drop(data.query, measure="margin")
    found, again = lds(effects, truth, draws=FEW), lds(effects.values, tmp_path / "truth.npz", draws=FEW)
    assert repr(found) == repr(again) and found.score.source == again.score.source
    loaded = SubsetTruth.load(tmp_path / "truth.npz")
    for name in ("kept", "outputs", "before", "raised", "query_ids", "train_ids"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(truth, name))
    assert loaded.measure == "margin" and np.load(tmp_path / "truth.npz")["outputs"].shape == (2, 5, 6)
    with pytest.raises(ShapeError, match=r"other names or another order"):
        lds(replace(effects, train_ids=effects.train_ids[::-1]), truth)


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
def test_masks_and_train_functions_that_cannot_be_are_refused():
    data = classification(40, 3, 6, 3)
    study = studied(recipe(data), data)
    asked = partial(subset_truth, study, data.query, train=recipe(data), seeds=1, progress=False)
    with pytest.raises(ShapeError, match=r"masks of shape \(5, 39\) and type bool. Expected booleans \(r, 40\)"):
        asked(masks=random_subsets(39, 5))
    with pytest.raises(ShapeError, match=r"type float64. Expected booleans"):
        asked(masks=random_subsets(40, 5) * 1.0)
    with pytest.raises(ConfigError, match=r"a mask that keeps no weight. Expected at least one point"):
        asked(masks=np.zeros((2, 40), bool))
    with pytest.raises(ConfigError, match=r"measure='accuracy'. Expected a measure of each query"):
        asked(measure="accuracy")
    with pytest.raises(uw.errors.BudgetError, match=r"subset_truth found .* parameters and no train="):
        subset_truth(
            uw.Study(study.objective.model, (data.X, data.y), loss="cross_entropy", curvature="ekfac", memory=900),
            data.query,
        )
    state = study.objective.model.state_dict()
    with pytest.raises(ConfigError, match=r"two weightings that differ in .* Expected it to use its weights"):
        subset_truth(study, data.query, train=lambda weights, seed: state, count=3, seeds=1, progress=False)

    def seedless(weights, seed):
        return recipe(data)(weights, 0)

    with pytest.raises(ConfigError, match=r"for the seeds 0 and 1. Expected it to use its seed"):
        subset_truth(study, data.query, train=seedless, count=3, seeds=2, progress=False)


def test_files_that_are_no_truth_are_refused(tmp_path):
    with pytest.raises(StoreError, match=r"found no file .*nowhere.npz"):
        SubsetTruth.load(tmp_path / "nowhere.npz")
    np.savez(tmp_path / "other.npz", scores=np.ones(3))
    with pytest.raises(StoreError, match=r"holds scores, without kept, outputs"):
        lds(np.ones((1, 3)), tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(StoreError, match=r"broken.npz is damaged or not an npz"):
        SubsetTruth.load(tmp_path / "broken.npz")
    np.savez(tmp_path / "pickled.npz", kept=np.asarray([{}], dtype=object))
    with pytest.raises(StoreError, match=r"pickled.npz is damaged or not an npz file of plain arrays"):
        SubsetTruth.load(tmp_path / "pickled.npz")


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_two_methods_are_compared_on_the_same_resamples():
    truth, effects = simulated(noise=5.0, subsets=60, m=20)
    good, bad = (effects + size * RNG.standard_normal(effects.shape) for size in (0.3, 2.0))
    a, b = lds(good, truth, draws=200), lds(bad, truth, draws=200)
    found = compare(a.score, b.score)
    assert found.better and not found.worse and found.not_inferior and "better" in repr(found)
    np.testing.assert_allclose(found.difference.draws, a.score.draws - b.score.draws)
    assert found.difference.value == pytest.approx(a.score.value - b.score.value)
    turned = compare(b.score, a.score)
    assert turned.worse and not turned.not_inferior and "worse" in repr(turned)
    assert turned.difference.low == pytest.approx(-found.difference.high)
    unpaired = (a.score.high - a.score.low) + (b.score.high - b.score.low)
    assert found.difference.high - found.difference.low < unpaired  # what both have in common cancels
    same = compare(a.score, lds(good + 1e-9, truth, draws=200).score, margin=0.01)
    assert not same.better and same.not_inferior and "no difference shown, not inferior by 0.01" in repr(same)


def test_estimates_of_two_truths_are_not_compared():
    (one, effects), (two, _) = simulated(), simulated(seed=1)
    with pytest.raises(ConfigError, match=r"two sources. Expected the same truth, draws and seed"):
        compare(lds(effects, one, draws=FEW).score, lds(effects, two, draws=FEW).score)
    with pytest.raises(ConfigError, match=r"two sources"):
        compare(lds(effects, one, draws=FEW).score, lds(effects, one, draws=FEW, seed=1).score)
    score = lds(effects, one, draws=FEW).score
    with pytest.raises(ConfigError, match=r"margin=-1. Expected zero or more"):
        compare(score, score, margin=-1)
    with pytest.raises(ConfigError, match=r"draws=1. Expected at least 2"):
        lds(effects, one, draws=1)


def test_non_inferiority_is_the_lower_end_against_the_margin():
    draws = np.linspace(-0.03, 0.05, 1001)
    first, second = Estimate(0.51, 0.5 + draws, "x"), Estimate(0.5, np.full(1001, 0.5), "x")
    assert compare(first, second, 0.029).not_inferior and not compare(first, second, 0.027).not_inferior
    assert float(first) == 0.51 and compare(first, second).difference.low == pytest.approx(-0.028, abs=1e-4)


# --- wrong labels ----------------------------------------------------------------------------------------------------


def test_detection_is_the_area_and_the_curve_of_its_definition():
    wrong = RNG.random(200) < 0.15
    scores = wrong + RNG.standard_normal(200)
    found = mislabel_detection(scores, wrong, draws=200)
    assert found.auc.value == pytest.approx(roc_auc_score(wrong, scores))
    assert found.auc.low < found.auc.value < found.auc.high
    order = np.argsort(-scores)
    for checked in (20, 60, 200):
        assert found.fixed(checked / 200) == pytest.approx(wrong[order[:checked]].sum() / wrong.sum())
    assert found.fixed(0) == 0 and found.fixed(1) == pytest.approx(1)
    table = found.table()
    assert table.fixed[1] == found.fixed(0.1) and table.random[1] == 0.1 and "fixed once 10% are checked" in repr(found)
    by_position = mislabel_detection(scores, np.flatnonzero(wrong), draws=FEW)
    np.testing.assert_array_equal(by_position.found, found.found)
    assert found.plot().get_xlabel() == "fraction of points checked"


def test_ties_are_looked_at_in_random_order():
    wrong, scores = np.asarray([True, False, False, True, False, False]), np.asarray([3.0, 3, 1, 1, 1, 0])
    found = mislabel_detection(scores, wrong, draws=FEW)
    np.testing.assert_allclose(found.found, [0, 1 / 4, 1 / 2, 2 / 3, 5 / 6, 1, 1])
    assert found.auc.value == pytest.approx(roc_auc_score(wrong, scores))
    assert mislabel_detection(np.ones(6), wrong, draws=FEW).fixed(0.5) == pytest.approx(0.5)


def test_planted_labels_are_found_by_self_influence():
    data = classification(300, 4, 4, seed=5)
    y = data.y.copy()
    y[::12] = 1 - y[::12]
    study = uw.from_sklearn(LogisticRegression(tol=1e-10).fit(data.X, y), data.X, y)
    found = mislabel_detection(study.self_influence(), np.arange(0, 300, 12))
    assert found.auc.low > 0.6 and found.fixed(0.2) > 0.4


@pytest.mark.parametrize(
    ("scores", "wrong", "error", "message"),
    [
        (np.ones((2, 3)), [0], ShapeError, r"scores of shape \(2, 3\). Expected \(n,\)"),
        ([1.0, np.nan], [0], NonFiniteInput, r"1 scores that are not finite"),
        ([1.0, 2.0], [2], ShapeError, r"positions up to 2 for 2 scores. Expected 0 to 1"),
        ([1.0, 2.0], [True], ShapeError, r"wrong of shape \(1,\) for 2 scores"),
        ([1.0, 2.0], [], ConfigError, r"0 wrong labels among 2. Expected some wrong"),
        ([1.0, 2.0], [True, True], ConfigError, r"2 wrong labels among 2. Expected some wrong and some right"),
    ],
)
def test_detection_refuses_what_has_no_curve(scores, wrong, error, message):
    with pytest.raises(error, match=message):
        mislabel_detection(scores, wrong)


def test_a_score_that_ranks_wrong_labels_last_is_warned_of():
    wrong = np.arange(60) < 20
    with pytest.warns(SignWarning, match="wrong labels"):
        found = mislabel_detection(-1.0 * wrong + 0.01 * RNG.standard_normal(60), wrong, draws=FEW)
    with pytest.raises(ConfigError, match=r"checked=1.5. Expected a share between 0 and 1"):
        found.fixed(1.5)


# --- brittleness -----------------------------------------------------------------------------------------------------


def flips(fitted, data, order, size, kept=None) -> np.ndarray:
    left = np.setdiff1d(np.arange(len(data.y)), order[:size])
    again = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(data.X[left], data.y[left])
    return again.predict(data.Xt) != fitted.predict(data.Xt)


@pytest.mark.parametrize("with_train", [False, True])
def test_brittleness_finds_the_smallest_size_that_flips_by_brute_force(with_train):
    data = classification(60, 3, 5, seed=7)
    fitted = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y)

    def train(weights, seed):
        again = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(data.X[weights > 0], data.y[weights > 0])
        return {"weight": again.coef_, "bias": again.intercept_}

    scores, sizes, right = study.drop(data.query).values, [1, 2, 4, 8, 16, 24], fitted.predict(data.Xt) == data.yt
    found = brittleness(study, data.query, scores, sizes=sizes, train=train if with_train else None, progress=False)
    for q in range(5):
        order = np.argsort(-scores[q] if right[q] else scores[q], kind="stable")
        tried = [size for size in sizes if flips(fitted, data, order, size)[q]]
        if found.smallest["scores"][q] < np.inf:
            assert found.smallest["scores"][q] in tried
        if tried and all(size in tried for size in sizes[sizes.index(tried[0]) :]):  # monotone: then it is the smallest
            assert found.smallest["scores"][q] == tried[0]
    assert not right.all() and right.any() and np.isfinite(found.smallest["scores"]).sum() >= 4
    assert (found.smallest["scores"] <= found.smallest["random"]).all()
    assert found.retrainings <= 1 + 2 * 5 * 3 and "5 predictions, up to 24 points removed" in repr(found)
    table = found.table()
    assert list(table.columns) == ["scores", "random"] and table.scores.is_monotonic_increasing
    assert found.plot().get_xlabel() == "points removed"


def test_several_methods_are_removed_side_by_side():
    data = classification(60, 3, 5, seed=7)
    study = uw.from_sklearn(LogisticRegression(C=0.5, tol=1e-10).fit(data.X, data.y), data.X, data.y)
    scores = {"ours": study.drop(data.query).values, "turned": -study.drop(data.query).values}
    found = brittleness(study, data.query, scores, control=False, progress=False)
    assert list(found.smallest) == ["ours", "turned"] and found.sizes == (1, 3, 6, 12)
    assert (found.smallest["ours"] <= found.smallest["turned"]).all()
    assert (found.smallest["ours"] < found.smallest["turned"]).any()


@pytest.mark.parametrize(
    ("scores", "settings", "error", "message"),
    [
        (np.ones((60, 5)), {}, ShapeError, r"scores 'scores' of shape \(60, 5\). Expected \(5, 60\)"),
        (np.full((5, 60), np.nan), {}, NonFiniteInput, r"not finite"),
        (
            np.ones((5, 60)),
            {"sizes": [60]},
            ConfigError,
            r"sizes=\[60\] of 60 training points. Expected numbers from 1 to 59",
        ),
        (np.ones((5, 60)), {"sizes": [0, 3]}, ConfigError, r"sizes=\[0, 3\]"),
    ],
)
def test_brittleness_refuses_what_cannot_be_removed(scores, settings, error, message):
    data = classification(60, 3, 5, seed=7)
    study = uw.from_sklearn(LogisticRegression(C=0.5, tol=1e-10).fit(data.X, data.y), data.X, data.y)
    with pytest.raises(error, match=message):
        brittleness(study, data.query, scores, **settings)
    line = regression()
    from sklearn.linear_model import Ridge

    with pytest.raises(ConfigError, match=r"predicts no class. Expected a classifier"):
        brittleness(uw.from_sklearn(Ridge().fit(line.X, line.y), line.X, line.y), line.query, np.ones((3, 40)))


# --- seed noise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("power", "level"), [(0.8, 0.05), (0.9, 0.01)])
def test_retrainings_needed_are_statsmodels_two_sample_power(power, level):
    sizes = np.asarray([8.0, 3.0, 1.5, 0.8, 0.45, 0.3, 0.12, 0.02])
    found = retrainings_needed(sizes, np.ones(1), power, level)
    expected = [np.ceil(TTestIndPower().solve_power(size, alpha=level, power=power)) for size in sizes[1:]]
    assert np.abs(found[1:] - expected).max() <= 1 and found[0] in (2, 3)  # above a hundred to within one
    np.testing.assert_array_equal(found[1:5], expected[:4])
    for runs in (5, 40):  # statsmodels itself is NaN at 2
        assert TTestIndPower().power(smallest_seen(runs, power, level), runs, level) == pytest.approx(power, abs=1e-6)


def test_an_effect_of_the_visible_size_is_seen_as_often_as_stated():
    rng, floor = (
        np.random.default_rng(0),
        noise_floor(np.ones((1, 1)), np.random.default_rng(1).standard_normal((6, 1))),
    )
    size = floor.visible[0] / floor.deviation[0]
    seen = [stats.ttest_ind(rng.standard_normal(6), size + rng.standard_normal(6)).pvalue < 0.05 for _ in range(1500)]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.04)


def test_a_floor_tells_deviation_and_share_and_speaks():
    outputs = np.stack([np.linspace(0, 1, 5), 3 * np.linspace(0, 1, 5)], 1)
    found = noise_floor(np.asarray([[5.0, 0.1, 0.0], [5.0, 0.1, 0.0]]), outputs)
    np.testing.assert_allclose(found.deviation, outputs.std(0, ddof=1))
    assert found.needed[0, 0] <= 5 and found.needed[1, 0] > found.needed[0, 0] and found.needed[0, 2] == 10**6
    assert found.share == pytest.approx(np.mean(found.needed <= 5)) and "two-sample t-test" in repr(found)
    quiet = noise_floor(np.asarray([[1.0, 0.0]]), np.ones((3, 1)))
    assert quiet.needed.tolist() == [[2, 10**6]] and quiet.visible[0] == 0
    assert "more than a million" in noise_floor(np.zeros((1, 1)), np.random.default_rng(0).random((3, 1))).words


@pytest.mark.parametrize(
    ("effects", "outputs", "settings", "error", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 3)), {}, ShapeError, r"effects of shape \(2, 3\) and outputs of shape \(4, 3\)"),
        (np.ones((2, 3)), np.ones((1, 2)), {}, ConfigError, r"found 1 seeds"),
        (np.ones((2, 3)), np.ones((4, 2)), {"power": 1.0}, ConfigError, r"power=1.0, level=0.05. Expected"),
        (np.full((2, 3), np.inf), np.ones((4, 2)), {}, NonFiniteInput, r"not finite"),
    ],
)
def test_a_floor_of_what_cannot_be_measured_is_refused(effects, outputs, settings, error, message):
    with pytest.raises(error, match=message):
        noise_floor(effects, outputs, **settings)
