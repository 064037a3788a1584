"""Ten-class softmax on real digits: predictions against converged refits, cold and warm, point by point and query by query."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import upweight as uw
from cases import pearson, slope
from upweight.evaluate import Refits
from upweight.evaluate.refit import refit

QUERIES = 20


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    X, y = data.data[order] / 16.0, data.target[order]
    train, query = (X[:-QUERIES], y[:-QUERIES]), (X[-QUERIES:], y[-QUERIES:])
    fitted = LogisticRegression(C=0.1, tol=1e-10, max_iter=10000).fit(*train)
    study = uw.from_sklearn(fitted, *train)
    effects = study.drop(query)
    top = np.argsort(-np.abs(effects.values).sum(0))[:50]
    others = np.setdiff1d(np.arange(len(train[1])), top)
    chosen = np.concatenate([top, np.random.default_rng(1).choice(others, 50, replace=False)])
    return study, train, query, effects, chosen


def test_predictions_equal_warm_refits(digits):
    study, _, query, effects, chosen = digits
    warm = Refits(study).drop(query, which=chosen).effects.values
    predicted = effects.values[:, chosen]
    per_query = np.array([pearson(warm[q], predicted[q]) for q in range(QUERIES)])
    overlap = np.mean(
        [
            len(set(np.argsort(-abs(warm[q]))[:20]) & set(np.argsort(-abs(predicted[q]))[:20])) / 20
            for q in range(QUERIES)
        ]
    )
    print(
        f"Pearson {pearson(warm, predicted):.6f}, slope {slope(warm, predicted):.4f}, 5th percentile over queries {np.percentile(per_query, 5):.5f}, top-20 overlap {overlap:.3f}"
    )
    assert pearson(warm, predicted) >= 0.999
    assert 0.98 <= slope(warm, predicted) <= 1.02
    assert np.percentile(per_query, 5) >= 0.99
    assert overlap >= 0.9


def test_cold_refits_by_the_estimator_itself_agree_with_warm_ones(digits):
    study, (X, y), query, effects, chosen = digits
    picked = chosen[[0, 1, 2, 50, 51]]
    warm = Refits(study).drop(query, which=picked).effects.values
    before = -np.log(
        LogisticRegression(C=0.1, tol=1e-10, max_iter=10000)
        .fit(X, y)
        .predict_proba(query[0])[np.arange(QUERIES), query[1]]
    )
    for column, i in enumerate(picked):
        again = LogisticRegression(C=0.1, tol=1e-10, max_iter=10000).fit(np.delete(X, i, 0), np.delete(y, i))
        cold = -np.log(again.predict_proba(query[0])[np.arange(QUERIES), query[1]]) - before
        np.testing.assert_allclose(warm[:, column], cold, atol=5e-6)
        assert 0.97 <= slope(cold, effects.values[:, i]) <= 1.03


def test_a_cold_refit_from_zero_reaches_the_warm_one(digits):
    study, _, _, _, chosen = digits
    weights = study.fitted.weights.clone()
    weights[chosen[0]] = 0
    warm = refit(study.fitted, weights)
    cold = refit(study.fitted, weights, start=warm * 0)
    np.testing.assert_allclose(cold.numpy(), warm.numpy(), atol=1e-8)


@pytest.mark.slow
def test_predictions_equal_cold_refits_of_every_chosen_point(digits):
    _, (X, y), query, effects, chosen = digits
    before = -np.log(
        LogisticRegression(C=0.1, tol=1e-10, max_iter=10000)
        .fit(X, y)
        .predict_proba(query[0])[np.arange(QUERIES), query[1]]
    )
    cold = []
    for i in chosen:
        again = LogisticRegression(C=0.1, tol=1e-10, max_iter=10000).fit(np.delete(X, i, 0), np.delete(y, i))
        cold.append(-np.log(again.predict_proba(query[0])[np.arange(QUERIES), query[1]]) - before)
    cold, predicted = np.stack(cold, 1), effects.values[:, chosen]
    assert pearson(cold, predicted) >= 0.999
    assert 0.98 <= slope(cold, predicted) <= 1.02
