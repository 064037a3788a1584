"""Sign and scale, in the words of docs/sign-and-scale.md: each sentence of the page is a test."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

import upweight as uw
from cases import fitted_mlp, slope


@pytest.fixture(scope="module")
def line():
    """y = x through the origin; one query at x = 1, y = 1. The last training point pulls the slope up."""
    X, y = np.array([[1.0], [1.0], [1.0]]), np.array([0.6, 0.9, 1.8])
    return uw.from_sklearn(LinearRegression(fit_intercept=False).fit(X, y), X, y), ([[1.0]], [1.0])


def test_a_positive_drop_of_a_loss_means_the_loss_would_rise_so_the_point_is_helpful(line):
    study, query = line
    effects = study.drop(query)
    slopes = {0: (0.9 + 1.8) / 2, 1: (0.6 + 1.8) / 2, 2: (0.6 + 0.9) / 2}
    for point, slope_without in slopes.items():
        assert effects.values[0, point] == pytest.approx(0.5 * (slope_without - 1) ** 2 - 0.5 * (1.1 - 1) ** 2)
    assert effects.helpful(1)["train"].tolist() == [0]
    assert effects.helpful(1)["effect"].item() > 0
    assert effects.helpful(3)["train"].tolist() == [0, 2, 1]
    assert effects.harmful(3).empty, "without any of the three the loss would rise"


def test_upweight_is_the_paper_s_derivative_minus_drop_over_the_weight_to_first_order(line):
    study, query = line
    up, down = study.upweight(query), study.drop(query, order="first")
    np.testing.assert_allclose(up.values, -3 * down.values, rtol=1e-12)
    gradient, curvature = (1.1 - np.array([0.6, 0.9, 1.8])), 1.0
    np.testing.assert_allclose(up.values[0], -(1.1 - 1.0) / curvature * gradient, rtol=1e-12)
    assert up.helpful(1)["train"].tolist() == [0], "a point whose weight lowers the loss is helpful"
    assert up.helpful(1)["effect"].item() < 0


def test_a_drop_of_a_prediction_is_in_the_prediction_s_own_unit(line):
    study, query = line
    effects = study.drop(query, measure="prediction")
    np.testing.assert_allclose(effects.values[0], [1.35 - 1.1, 1.2 - 1.1, 0.75 - 1.1])
    assert effects.raises(1)["train"].tolist() == [0] and effects.lowers(1)["train"].tolist() == [2]
    with pytest.raises(uw.errors.ConfigError, match="raises"):
        effects.helpful()


def test_first_order_is_too_small_by_one_minus_the_leverage(line):
    study, query = line
    first = study.drop(query, measure="prediction", order="first").values
    newton = study.drop(query, measure="prediction").values
    np.testing.assert_allclose(study.leverage(), [1 / 3] * 3)
    np.testing.assert_allclose(first / (1 - study.leverage()), newton)


def test_self_influence_is_the_own_loss_drop_to_first_order_and_not_leverage(line):
    study, _ = line
    residual = 1.1 - np.array([0.6, 0.9, 1.8])
    np.testing.assert_allclose(study.self_influence(), residual**2 / 3)
    own = study.drop(([[1.0]] * 3, [0.6, 0.9, 1.8]), order="first").values
    np.testing.assert_allclose(study.self_influence(), np.diag(own))
    assert (study.self_influence() >= 0).all()


def test_parameters_are_the_derivative_and_drop_of_parameters_is_the_refit(line):
    study, _ = line
    np.testing.assert_allclose(study.parameters().values[:, 0], [0.6 - 1.1, 0.9 - 1.1, 1.8 - 1.1])
    np.testing.assert_allclose(study.drop(measure="parameters").values[0], [0.25, 0.1, -0.35])
    assert study.parameters([2]).values.shape == (1, 1)
    rows = study.parameters([2])
    assert rows.train_ids.tolist() == [2] and rows.names.tolist() == ["weight[0,0]"]
    assert rows.to_pandas().loc[2, "weight[0,0]"] == rows.values[0, 0] == np.asarray(rows)[0, 0] and len(rows) == 1
    assert "derivative of 1 parameters in the weight of 1 training point" in repr(rows)


def test_adding_a_point_again_is_the_opposite_of_dropping_it_to_first_order(line):
    study, query = line
    added = study.add(([[1.0]], [1.8]), query, order="first").values[0, 0]
    assert added == pytest.approx(-study.drop(query, which=2, order="first").values[0, 0])


def test_the_two_protocols_differ_by_the_penalty_s_share():
    X, y = np.random.default_rng(0).standard_normal((20, 2)), np.arange(20.0)
    fitted = Ridge(alpha=10.0, fit_intercept=False).fit(X, y)
    total = uw.from_sklearn(fitted, X, y)
    mean = uw.from_sklearn(fitted, X, y, protocol="fixed_mean")
    assert (total.protocol, mean.protocol) == ("fixed_total", "fixed_mean")
    i, keep = 4, np.arange(20) != 4
    for study, alpha in ((total, 10.0), (mean, 9.5)):
        again = Ridge(alpha=alpha, fit_intercept=False).fit(X[keep], y[keep])
        np.testing.assert_allclose(
            study.drop(measure="parameters", which=i).values[:, 0], again.coef_ - fitted.coef_, atol=1e-12
        )


def test_a_network_s_drop_has_the_scale_of_refitting_it():
    _, problem, study = fitted_mlp(n=120, penalty=0.02)
    found = study.check(problem.query, refits=20)
    assert 0.95 <= found.slope <= 1.05
    assert found.pearson >= 0.995
    plain = study.check(problem.query, refits=20, order="first")
    assert abs(plain.slope - 1) > abs(found.slope - 1)
    assert slope(found.refitted, found.predicted) == pytest.approx(found.slope)


def test_perturb_includes_the_weight_of_the_point(line):
    study, query = line
    found = study.perturb([0, 2], query)
    assert found.values.shape == (1, 2, 1)
    step = 1e-5
    for k, i in enumerate([0, 2]):
        sides = []
        for sign in (1, -1):
            X, y = np.ones((3, 1)), np.array([0.6, 0.9, 1.8])
            X[i] += sign * step
            sides.append(0.5 * (LinearRegression(fit_intercept=False).fit(X, y).coef_[0] - 1) ** 2)
        assert found.values[0, k, 0] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-6)
    assert torch.tensor(np.asarray(found)).shape == (1, 2, 1)
