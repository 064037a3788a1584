"""Logistic and softmax regression at ordinary p/n: the corrected drop has the slope of real refits, first order has not."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import upweight as uw
from cases import pearson, slope

SEEDS = range(5)


def newton_logistic(X: np.ndarray, y: np.ndarray, theta: np.ndarray, penalty: float = 1.0) -> np.ndarray:
    """argmin Σ log(1+exp(−±xθ)) + ½penalty‖θ‖², independent of the library."""
    for _ in range(50):
        p = 1 / (1 + np.exp(-X @ theta))
        gradient = X.T @ (p - y) + penalty * theta
        if np.linalg.norm(gradient) < 1e-11 * len(y):
            break
        theta = theta - np.linalg.solve(X.T @ ((p * (1 - p))[:, None] * X) + penalty * np.eye(X.shape[1]), gradient)
    return theta


def logistic_study(p: int, seed: int):
    rng = np.random.default_rng(seed)
    X, Xt = rng.standard_normal((400, p)), rng.standard_normal((20, p))
    beta = rng.standard_normal(p) / np.sqrt(p) * 3.5
    y = (rng.random(400) < 1 / (1 + np.exp(-X @ beta))).astype(float)
    theta = newton_logistic(X, y, np.zeros(p))
    model = torch.nn.Linear(p, 1, bias=False, dtype=torch.float64).eval()
    model.weight.data = torch.as_tensor(theta)[None]
    study = uw.Study(
        model,
        (X, y[:, None]),
        loss="binary_cross_entropy",
        weights=np.ones(400),
        penalty=uw.L2(1.0),
        protocol="fixed_total",
    )
    return study, X, y, Xt, theta


@pytest.mark.parametrize(("p", "first_order_slope"), [(10, 1.03), (80, 1.4), (200, 3.0)])
def test_the_corrected_drop_has_the_slope_of_leave_one_out(p, first_order_slope):
    corrected, first, correlation = [], [], []
    for seed in SEEDS:
        study, X, y, Xt, theta = logistic_study(p, seed)
        chosen = np.random.default_rng(seed).choice(400, 40, replace=False)
        true = np.stack([Xt @ (newton_logistic(np.delete(X, i, 0), np.delete(y, i), theta) - theta) for i in chosen], 1)
        query = (Xt, np.zeros((20, 1)))
        drop = study.drop(query, which=chosen, measure="prediction").values
        corrected.append(slope(true, drop))
        correlation.append(pearson(true, drop))
        first.append(slope(true, study.drop(query, which=chosen, measure="prediction", order="first").values))
    assert 0.97 <= np.median(corrected) <= 1.03
    assert np.median(correlation) >= 0.98
    assert np.median(first) >= first_order_slope


def test_leaving_out_a_fifth_of_the_data_is_within_fifteen_percent():
    errors, first = [], []
    for seed in SEEDS:
        study, X, y, Xt, theta = logistic_study(200, seed)
        groups = [np.random.default_rng([seed, g]).choice(400, 80, replace=False) for g in range(4)]
        true = np.stack([Xt @ (newton_logistic(np.delete(X, g, 0), np.delete(y, g), theta) - theta) for g in groups], 1)
        query = (Xt, np.zeros((20, 1)))
        found = study.drop_group(groups, query, measure="prediction").values
        errors.append(np.linalg.norm(found - true) / np.linalg.norm(true))
        plain = study.drop_group(groups, query, measure="prediction", order="first").values
        first.append(np.linalg.norm(plain - true) / np.linalg.norm(true))
    assert np.median(errors) <= 0.15
    assert np.median(first) >= 0.5


@pytest.mark.parametrize(("p", "first_order_slope"), [(10, 1.02), (40, 1.2)])
def test_softmax_with_four_classes_has_the_slope_of_leave_one_out(p, first_order_slope):
    corrected, first, correlation = [], [], []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        X, Xt = rng.standard_normal((400, p)), rng.standard_normal((10, p))
        y = (X @ rng.standard_normal((p, 4)) * 1.5 / np.sqrt(p) + rng.gumbel(size=(400, 4))).argmax(1)
        yt = rng.integers(0, 4, 10)
        fitted = LogisticRegression(C=1.0, tol=1e-9, max_iter=5000).fit(X, y)
        study = uw.from_sklearn(fitted, X, y)
        chosen = rng.choice(400, 25, replace=False)
        true = []
        for i in chosen:
            again = LogisticRegression(C=1.0, tol=1e-9, max_iter=5000).fit(np.delete(X, i, 0), np.delete(y, i))
            true.append(again.decision_function(Xt).ravel() - fitted.decision_function(Xt).ravel())
        true = np.stack(true, 1)
        drop = study.drop((Xt, yt), which=chosen, measure="prediction").values
        corrected.append(slope(true, drop))
        correlation.append(pearson(true, drop))
        plain = study.drop((Xt, yt), which=chosen, measure="prediction", order="first").values
        first.append(slope(true, plain))
    assert 0.97 <= np.median(corrected) <= 1.03
    assert np.median(correlation) >= 0.98
    assert np.median(first) >= first_order_slope
