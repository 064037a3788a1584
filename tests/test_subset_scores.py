"""The linear datamodeling score against its definition and simulated truths; truths retrained, saved and refused; methods compared."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from torch import nn

import upweight as uw
from cases import classification
from upweight.errors import ConfigError, NonFiniteInput, ShapeError, SignWarning, StoreError
from upweight.evaluate import Estimate, Retraining, SubsetTruth, Training, compare, lds, random_subsets, subset_truth
from upweight.evaluate.datamodeling import rank_correlations, reliability

RNG = np.random.default_rng(0)
FEW = 40
"""Resamples where only the value is looked at."""

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


def test_a_flipped_byte_of_a_truth_is_refused_or_changes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    truth = SubsetTruth.of(rng.random((12, 9)) < 0.5, rng.standard_normal((12, 3)))
    path, refused = truth.save(tmp_path / "truth.npz"), 0
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            np.testing.assert_array_equal(SubsetTruth.load(path).outputs, truth.outputs)
        except StoreError:
            refused += 1
    assert refused > 10


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
