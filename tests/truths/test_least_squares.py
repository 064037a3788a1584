"""Ordinary and ridge regression: dropping and relabelling are exact, for parameters, predictions and loss."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge

import upweight as uw
from cases import Problem, regression
from upweight.evaluate.refit import refit

TIGHT = 1e-10


def least_squares(X: np.ndarray, y: np.ndarray, w: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """argmin ½Σw(y−Xθ)² + ½θᵀdiag(ridge)θ, solved on its own."""
    return np.linalg.solve(X.T @ (w[:, None] * X) + np.diag(ridge), X.T @ (w[:, None] * y if y.ndim > 1 else w * y))


@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        LinearRegression(fit_intercept=False),
        Ridge(alpha=3.0),
        Ridge(alpha=0.5, fit_intercept=False),
    ],
)
def test_dropping_a_point_equals_refitting_the_estimator(estimator):
    data = regression()
    fitted = estimator.fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y)
    loss, prediction = study.drop(data.query), study.drop(data.query, measure="prediction")
    parameters = study.drop(measure="parameters")
    before = fitted.predict(data.Xt)
    for i in range(len(data.y)):
        again = clone(estimator).fit(*data.without(i))
        after = again.predict(data.Xt)
        np.testing.assert_allclose(prediction.values[:, i], after - before, atol=TIGHT)
        np.testing.assert_allclose(
            loss.values[:, i], 0.5 * (after - data.yt) ** 2 - 0.5 * (before - data.yt) ** 2, atol=TIGHT
        )
        np.testing.assert_allclose(parameters.values[: data.X.shape[1], i], again.coef_ - fitted.coef_, atol=TIGHT)
        np.testing.assert_allclose(
            parameters.values[data.X.shape[1] :, i],
            np.ravel(again.intercept_ - fitted.intercept_)[: parameters.values.shape[0] - data.X.shape[1]],
            atol=TIGHT,
        )


@pytest.mark.parametrize("protocol", ["fixed_mean", "fixed_total"])
@pytest.mark.parametrize("weighted", [False, True])
def test_both_penalty_protocols_equal_their_own_refit(protocol, weighted):
    data, lam = regression(seed=1), 0.3
    n, p = data.X.shape
    w = np.random.default_rng(2).uniform(0.5, 2, n) / n if weighted else np.full(n, 1 / n)
    theta = least_squares(data.X, data.y, w, np.full(p, lam))
    study = torch_line(data, theta, w, lam, protocol)
    loss, moved = study.drop((data.Xt, data.yt[:, None])), study.drop(measure="parameters")
    for i in range(n):
        kept = w.copy()
        kept[i] = 0
        scale = 1 - w[i] / w.sum() if protocol == "fixed_mean" else 1.0
        again = least_squares(data.X, data.y, kept, np.full(p, lam * scale))
        np.testing.assert_allclose(moved.values[:, i], again - theta, atol=TIGHT)
        change = 0.5 * (data.Xt @ again - data.yt) ** 2 - 0.5 * (data.Xt @ theta - data.yt) ** 2
        np.testing.assert_allclose(loss.values[:, i], change, atol=TIGHT)


def torch_line(data: Problem, theta: np.ndarray, w: np.ndarray, lam: float, protocol: str) -> uw.Study:
    model = torch.nn.Linear(data.X.shape[1], 1, bias=False, dtype=torch.float64)
    model.weight.data = torch.as_tensor(theta)[None]
    return uw.Study(
        model.eval(), (data.X, data.y[:, None]), loss="squared_error", weights=w, penalty=uw.L2(lam), protocol=protocol
    )


@pytest.mark.parametrize("protocol", ["fixed_mean", "fixed_total"])
def test_a_real_refit_keeps_or_shares_the_penalty_as_the_protocol_says(protocol):
    data, lam = regression(seed=1), 0.3
    w = np.full(40, 1 / 40)
    theta = least_squares(data.X, data.y, w, np.full(4, lam))
    study = torch_line(data, theta, w, lam, protocol)
    w[[3, 8]] = 0
    scale = 38 / 40 if protocol == "fixed_mean" else 1.0
    found = refit(study.fitted, torch.as_tensor(w))
    np.testing.assert_allclose(found, least_squares(data.X, data.y, w, np.full(4, lam * scale)), atol=TIGHT)


def test_the_two_protocols_give_different_numbers():
    data = regression(seed=1)
    w = np.full(40, 1 / 40)
    theta = least_squares(data.X, data.y, w, np.full(4, 0.3))
    mean, total = (
        torch_line(data, theta, w, 0.3, protocol).drop(measure="parameters").values
        for protocol in ("fixed_mean", "fixed_total")
    )
    assert np.abs(mean - total).max() > 0.01 * np.abs(total).max()


@pytest.mark.parametrize("estimator", [LinearRegression(), Ridge(alpha=3.0)])
def test_relabelling_a_target_equals_refitting(estimator):
    data = regression(seed=3)
    fitted = estimator.fit(data.X, data.y)
    effects = uw.from_sklearn(fitted, data.X, data.y).relabel({7: 2.5, 0: -1.0}, data.query)
    for column, (i, label) in enumerate([(7, 2.5), (0, -1.0)]):
        y = data.y.copy()
        y[i] = label
        after = clone(estimator).fit(data.X, y).predict(data.Xt)
        np.testing.assert_allclose(
            effects.values[:, column],
            0.5 * (after - data.yt) ** 2 - 0.5 * (fitted.predict(data.Xt) - data.yt) ** 2,
            atol=TIGHT,
        )


def test_replacing_adding_and_leaving_groups_out_equal_refitting():
    data = regression(seed=4)
    estimator = Ridge(alpha=2.0)
    fitted = estimator.fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y)
    before = fitted.predict(data.Xt)
    new = np.random.default_rng(5).standard_normal((2, 4)), np.array([1.0, -2.0])

    replaced = study.replace([3, 9], new, data.query, measure="prediction").values
    added = study.add(new, data.query, measure="prediction").values
    for k, i in enumerate([3, 9]):
        X, y = data.X.copy(), data.y.copy()
        X[i], y[i] = new[0][k], new[1][k]
        np.testing.assert_allclose(replaced[:, k], clone(estimator).fit(X, y).predict(data.Xt) - before, atol=TIGHT)
        X, y = np.vstack([data.X, new[0][k]]), np.append(data.y, new[1][k])
        np.testing.assert_allclose(added[:, k], clone(estimator).fit(X, y).predict(data.Xt) - before, atol=TIGHT)

    groups = [[0, 1, 2, 3], list(range(10, 30)), [5]]
    dropped = study.drop_group(groups, data.query, measure="prediction").values
    for k, group in enumerate(groups):
        keep = np.setdiff1d(np.arange(40), group)
        np.testing.assert_allclose(
            dropped[:, k], clone(estimator).fit(data.X[keep], data.y[keep]).predict(data.Xt) - before, atol=TIGHT
        )


def test_reweighting_and_another_penalty_equal_refitting():
    data = regression(seed=6)
    fitted = Ridge(alpha=2.0).fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y)
    before = fitted.predict(data.Xt)
    s = np.random.default_rng(7).uniform(0, 2, 40)
    after = Ridge(alpha=2.0).fit(data.X, data.y, sample_weight=s).predict(data.Xt)
    np.testing.assert_allclose(
        study.reweight(s / 40, data.query, measure="prediction").values[:, 0], after - before, atol=TIGHT
    )
    other = study.change_penalty(uw.L2(5.0 / 40, on="weight"), data.query, measure="prediction").values[:, 0]
    np.testing.assert_allclose(other, Ridge(alpha=5.0).fit(data.X, data.y).predict(data.Xt) - before, atol=TIGHT)


def test_several_outputs_and_a_penalty_for_each_equal_refitting():
    data = regression(outputs=3, seed=8)
    estimator = Ridge(alpha=np.array([0.5, 2.0, 8.0]))
    fitted = estimator.fit(data.X, data.y)
    effects = uw.from_sklearn(fitted, data.X, data.y).drop(data.query)
    before = 0.5 * ((fitted.predict(data.Xt) - data.yt) ** 2).sum(1)
    for i in (0, 17, 39):
        after = 0.5 * ((clone(estimator).fit(*data.without(i)).predict(data.Xt) - data.yt) ** 2).sum(1)
        np.testing.assert_allclose(effects.values[:, i], after - before, atol=TIGHT)
