"""What a hostile reader found: masks taken for positions, errors divided by nothing, refits of another objective called real."""

import copy

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from sklearn.svm import LinearSVC

import upweight as uw
from test_bad_input import refused
from upweight import errors
from upweight.evaluate import mislabel_detection
from upweight.evaluate.calibration import Calibration
from upweight.report.judgement import CARE, GOOD, refits


@pytest.fixture(scope="module")
def softmax():
    torch.manual_seed(0)
    X, y = torch.randn(200, 6), torch.randint(0, 3, (200,))
    model = torch.nn.Linear(6, 3)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=3000, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(model(X), y) + 0.005 * sum(
            p.square().sum() for p in model.parameters()
        )
        value.backward()
        return value

    optimizer.step(loss)
    return uw.Study(model.eval(), (X, y), loss="cross_entropy", penalty=uw.L2(0.01)), (X[:4], y[:4])


def test_an_index_of_a_float32_model_certifies_its_answers(softmax, tmp_path):
    study, query = softmax
    index = uw.Index.build(study, tmp_path / "index", compression="none", progress=False)
    found = index.query(query, k=5, certified=True)
    assert found.certified.all()
    X, y = (torch.as_tensor(part) for part in study.objective.examples.tree)
    exact = uw.Study(
        copy.deepcopy(study.objective.model).double(),
        (X.double(), y),
        loss="cross_entropy",
        penalty=uw.L2(0.01),
    )
    whole = exact.drop((query[0].double(), query[1]), order="first").values
    for row, ids in zip(whole, found.top_ids, strict=True):
        assert set(ids.tolist()) == set(np.argsort(-row)[:5].tolist())


def test_a_mask_is_not_taken_for_ids(softmax, tmp_path):
    study, _ = softmax
    index = uw.Index.build(study, tmp_path / "index", compression="none", bounds=False, progress=False)
    mask = np.zeros(200, dtype=bool)
    mask[[7, 9]] = True
    with refused(errors.ConfigError, "booleans"):
        index.delete(mask)


def test_zeros_and_ones_are_a_mask_of_wrong_labels():
    rng = np.random.default_rng(0)
    wrong, scores = rng.random(200) < 0.1, rng.standard_normal(200)
    found = mislabel_detection(scores, wrong, draws=20)
    for same in (wrong.astype(int), wrong.astype(float), np.flatnonzero(wrong)):
        assert mislabel_detection(scores, same, draws=20).auc.value == found.auc.value
    for bad in ([3.7, 9.2], ["a", "b"], [[0, 1]], [np.nan]):
        with refused(errors.ShapeError, "mislabel_detection found wrong of type"):
            mislabel_detection(scores, bad, draws=20)


def test_refits_of_a_smoothed_hinge_are_called_what_they_are():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 3))
    y = (X[:, 0] + 0.5 * rng.standard_normal(80) > 0).astype(int)
    model = LinearSVC(loss="hinge", C=0.1, tol=1e-8, max_iter=10**6, random_state=0).fit(X, y)
    found = uw.from_sklearn(model, X, y).check((X[:5], y[:5]), refits=6, measure="margin")
    assert found.truth == "smoothed"
    assert "refits of the smoothed objective" in repr(found) and "the smoothed objective" in found.sentence


def test_errors_of_a_quantile_regression_are_not_made_up():
    rng = np.random.default_rng(0)
    X = sm.add_constant(rng.standard_normal((80, 2)))
    results = sm.QuantReg(X @ [1.0, 0.5, 0.0] + rng.standard_normal(80), X).fit(q=0.3)
    with refused(errors.ConfigError, "results.bse"):
        uw.from_statsmodels(results).standard_errors("hc0")


def test_as_many_parameters_as_observations_leave_no_error():
    rng = np.random.default_rng(0)
    study = uw.from_statsmodels(sm.OLS(rng.standard_normal(4), rng.standard_normal((4, 4))).fit())
    for kind in ("classical", "hc1", "hc3"):
        with refused(errors.ConfigError, "no degree of freedom"):
            study.standard_errors(kind)


def test_a_search_that_leaves_one_cluster_says_no_error():
    rng = np.random.default_rng(1)
    y = np.r_[rng.standard_normal(20), rng.standard_normal(3) + 3]
    x = np.r_[np.zeros(20), np.ones(3)] + rng.standard_normal(23) * 0.3
    groups = np.r_[np.zeros(20), np.ones(3)]
    results = sm.OLS(y, sm.add_constant(x)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    found = uw.from_statsmodels(results).worst_case("sign", of="x1", most=10)
    left = np.delete(groups, np.asarray(found.ids, dtype=int))
    assert float(found.after) < 0 < float(found.before)
    assert np.isnan(found.after.standard_error) == (len(np.unique(left)) == 1)


def test_the_report_does_not_call_them_real_refits_either():
    predicted = np.array([[0.1, -0.2, 0.3]])
    made = {
        truth: refits(Calibration(predicted, predicted * 1.01, np.arange(1), np.arange(3), "loss", "nats", truth))
        for truth in ("refit", "smoothed", "pbrf")
    }
    assert made["refit"].light == GOOD and "really left out" in made["refit"].words
    assert made["smoothed"].light == CARE and "refits of the smoothed objective" in made["smoothed"].words
    assert made["pbrf"].light == CARE and "proximal responses" in made["pbrf"].words
