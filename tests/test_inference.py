"""Variances against statsmodels and against refits; cross-validation against really leaving out; the penalty's derivative."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict

import upweight as uw
from cases import classification, fitted_mlp, regression, slope
from upweight.evaluate.refit import refit
from upweight.inference.covariance import covariance_matrix
from upweight.inference.remaining import without
from upweight.inference.scale import KINDS, scale_of
from upweight.inference.variance import Variance
from upweight.inference.worst_case.claims import at_weights

N = 90
RNG = np.random.default_rng(0)
X = sm.add_constant(RNG.standard_normal((N, 3)))
Y = X @ np.array([0.5, 0.4, -0.3, 0.2]) + RNG.standard_normal(N) * (1 + X[:, 1] ** 2)
WEIGHTS, GROUPS = RNG.uniform(0.5, 2, N), RNG.integers(0, 12, N)
GAMMA, COUNTS = RNG.gamma(2, np.exp(X[:, 1]) / 2), RNG.poisson(np.exp(0.3 * X[:, 1]) * RNG.gamma(1, 1, N))
FREQUENCY = RNG.integers(1, 4, N).astype(float)
LOG_GAMMA = sm.families.Gamma(sm.families.links.Log())


@pytest.mark.parametrize("model", [sm.OLS(Y, X), sm.WLS(Y, X, weights=WEIGHTS)], ids=["OLS", "WLS"])
@pytest.mark.parametrize("kind", ["classical", "hc0", "hc1", "hc2", "hc3"])
def test_covariances_of_least_squares_are_statsmodels_own(model, kind):
    study = uw.from_statsmodels(model.fit())
    reference = model.fit(cov_type={"classical": "nonrobust"}.get(kind, kind.upper()))
    found = study.covariance(kind)
    np.testing.assert_allclose(found, reference.cov_params(), rtol=1e-9)
    assert found.index.tolist() == ["const", "x1", "x2", "x3"] and found.attrs["kind"] == kind
    np.testing.assert_allclose(study.standard_errors(kind), reference.bse, rtol=1e-9)
    again = uw.from_statsmodels(reference)
    np.testing.assert_allclose(again.standard_errors(None), reference.bse, rtol=1e-9)


def test_hc3_is_nearly_the_jackknife_also_of_several_outputs():
    classes = np.digitize(Y, [0, 1])
    study = DIFFERENTIATED["MNLogit"]()
    dropped = study.drop(measure="parameters").values
    np.testing.assert_allclose(study.covariance("hc3"), dropped @ dropped.T, rtol=1e-9)
    refits = [sm.MNLogit(np.delete(classes, i), np.delete(X, i, 0)).fit(disp=0).params.T.ravel() for i in range(N)]
    jackknife = np.std(refits, 0) * np.sqrt(N)
    np.testing.assert_allclose(study.standard_errors("hc3"), jackknife, rtol=0.05)


def test_the_infinitesimal_jackknife_of_least_squares_is_white_s():
    study = uw.from_statsmodels(sm.OLS(Y, X).fit())
    np.testing.assert_allclose(study.covariance(), study.covariance("hc0"), rtol=1e-12)
    rows = study.parameters().values / N
    np.testing.assert_allclose(study.covariance("ij"), rows.T @ rows, rtol=1e-12)


LIKELIHOODS = {
    "gamma": (sm.GLM(GAMMA, X, family=LOG_GAMMA), {"tol": 1e-12}),
    "poisson": (sm.GLM(COUNTS, X, family=sm.families.Poisson()), {"tol": 1e-12}),
    "Logit": (sm.Logit((Y > 0) * 1.0, X), {"disp": 0, "tol": 1e-12}),
    "Probit": (sm.Probit((Y > 0) * 1.0, X), {"disp": 0, "tol": 1e-12}),
    "MNLogit": (sm.MNLogit(np.digitize(Y, [0, 1]), X), {"disp": 0, "tol": 1e-12}),
    "NegativeBinomial": (sm.NegativeBinomial(COUNTS, X), {"disp": 0, "method": "newton", "tol": 1e-12}),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_covariances_of_likelihoods_are_statsmodels_own(name):
    model, how = LIKELIHOODS[name]
    study = uw.from_statsmodels(model.fit(**how))
    for kind, theirs in (("classical", {}), ("hc0", {"cov_type": "HC0"})):
        reference = np.asarray(model.fit(**how, **theirs).cov_params())
        np.testing.assert_allclose(study.covariance(kind), reference, rtol=1e-6)
    clustered = model.fit(cov_type="cluster", cov_kwds={"groups": GROUPS}, **how)
    np.testing.assert_allclose(study.covariance("cluster", groups=GROUPS), clustered.cov_params(), rtol=1e-6)
    fitted_so = uw.from_statsmodels(clustered)
    np.testing.assert_allclose(fitted_so.standard_errors(None), np.asarray(clustered.bse).T.ravel(), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:cov_type not fully supported")
def test_a_row_that_stands_for_several_observations_is_as_many():
    repeated = np.repeat(np.arange(N), FREQUENCY.astype(int))
    short = uw.from_statsmodels(sm.GLM(COUNTS, X, family=sm.families.Poisson(), freq_weights=FREQUENCY).fit(tol=1e-12))
    long = uw.from_statsmodels(sm.GLM(COUNTS[repeated], X[repeated], family=sm.families.Poisson()).fit(tol=1e-12))
    for kind in ("classical", "hc0", "hc1", "hc2", "hc3"):
        np.testing.assert_allclose(short.covariance(kind), long.covariance(kind), rtol=1e-6)
    clustered = long.covariance(groups=GROUPS[repeated], kind=None)
    np.testing.assert_allclose(short.covariance(groups=GROUPS, kind=None), clustered, rtol=1e-6)


def test_a_cox_model_shows_its_coefficients_and_their_classical_errors():
    results = sm.PHReg(GAMMA, X[:, 1:], status=(Y > -1).astype(int)).fit(tol=1e-12)
    study = uw.from_statsmodels(results)
    assert study.standard_errors().index.tolist() == ["x1", "x2", "x3"]
    np.testing.assert_allclose(study.standard_errors("classical"), results.bse, rtol=1e-6)
    scores = results.score_residuals
    bread = np.linalg.inv(-results.model.hessian(results.params))
    np.testing.assert_allclose(study.covariance("hc0"), bread @ (scores.T @ scores) @ bread, rtol=1e-6)


def test_a_penalised_estimator_scatters_as_its_bootstrap_does():
    rng = np.random.default_rng(1)
    data = regression(n=300)
    study = uw.from_sklearn(Ridge(alpha=30.0).fit(data.X, data.y), data.X, data.y)
    draws = []
    for _ in range(600):
        chosen = rng.integers(0, 300, 300)
        draws.append(Ridge(alpha=30.0).fit(data.X[chosen], data.y[chosen]).coef_)
    for kind in ("ij", "classical"):
        np.testing.assert_allclose(study.standard_errors(kind)[:4], np.std(draws, 0), rtol=0.12)


def test_networks_have_sandwiches_and_no_derivative_of_them():
    _, _, net = fitted_mlp()
    rows = net.parameters().values / 40
    np.testing.assert_allclose(net.covariance("ij"), rows.T @ rows, rtol=1e-8, atol=1e-12)
    assert net.standard_errors("hc3").gt(net.standard_errors("hc0") - 1e-12).all()
    with pytest.raises(uw.errors.ConfigError, match="not linear in its parameters"):
        net.worst_case("significance", of="0.weight[0,0]")


def test_kinds_and_clusters_that_mean_nothing_are_refused():
    study = uw.from_statsmodels(sm.OLS(Y, X).fit())
    for how, words in (
        ({"kind": "hc4"}, "unknown"),
        ({"kind": "cluster"}, "groups="),
        ({"kind": "cluster", "groups": GROUPS[:5]}, "labels of shape"),
        ({"kind": "cluster", "groups": np.zeros(N)}, "one cluster only"),
        ({"kind": "hc0", "groups": GROUPS}, "leave them out"),
    ):
        with pytest.raises(uw.errors.ConfigError, match=words):
            study.covariance(**how)
    with pytest.raises(uw.errors.ConfigError, match="no likelihood with a dispersion"):
        uw.from_statsmodels(sm.RLM(Y, X).fit()).covariance("classical")
    with pytest.raises(uw.errors.ConfigError, match="'hc3', which takes its inverse"):
        DIFFERENTIATED["MNLogit"]().covariance("hc2")
    dated = uw.from_statsmodels(sm.OLS(Y, X).fit(cov_type="HAC", cov_kwds={"maxlags": 2}))
    with pytest.raises(uw.errors.ConfigError, match="cov_type='HAC'"):
        dated.covariance(None)


def test_leverage_one_is_said_where_it_is_divided_by():
    design = np.column_stack([X, np.arange(N) == 3]).astype(float)
    study = uw.from_statsmodels(sm.OLS(Y, design).fit())
    with pytest.warns(uw.errors.ApproximationWarning, match="leverage 1, the first is 3"):
        study.covariance("hc3")


DIFFERENTIATED = {
    "OLS": lambda: uw.from_statsmodels(sm.OLS(Y, X).fit()),
    "WLS": lambda: uw.from_statsmodels(sm.WLS(Y, X, weights=WEIGHTS).fit()),
    "gamma": lambda: uw.from_statsmodels(sm.GLM(GAMMA, X, family=LOG_GAMMA).fit(tol=1e-13)),
    "ridge": lambda: uw.from_statsmodels(sm.OLS(Y, X).fit_regularized(alpha=0.1, L1_wt=0)),
    "MNLogit": lambda: uw.from_statsmodels(sm.MNLogit(np.digitize(Y, [0, 1]), X).fit(disp=0, tol=1e-12)),
    "NegativeBinomial": lambda: uw.from_statsmodels(
        sm.NegativeBinomial(COUNTS, X).fit(disp=0, method="newton", tol=1e-12)
    ),
    "softmax with a gauge": lambda: uw.from_sklearn(
        LogisticRegression(tol=1e-12, max_iter=5000).fit(X[:, 1:], np.digitize(Y, [0, 1])),
        X[:, 1:],
        np.digitize(Y, [0, 1]),
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_the_derivative_of_a_variance_is_that_of_refitting(name):
    fitted = DIFFERENTIATED[name]().fitted
    direction = torch.zeros(fitted.objective.space.size, dtype=torch.float64)
    direction[1] = 1.0
    for kind in (kind for kind in KINDS if kind != "hc2" or fitted.objective.outputs == 1):
        scale = scale_of(fitted, kind, GROUPS if kind == "cluster" else None)
        variance = Variance(fitted, scale, direction)
        value = float(variance.at(fitted.weights, fitted.objective.theta))
        assert value == pytest.approx(float(direction @ covariance_matrix(fitted, scale) @ direction), rel=1e-9)
        gradient = variance.gradient()
        for place in (3, 50):
            step = torch.zeros(N, dtype=torch.float64)
            step[place] = 1e-4 * fitted.weights[place]
            ends = [float(variance.at(w, refit(fitted, w))) for w in (fitted.weights + step, fitted.weights - step)]
            true = (ends[0] - ends[1]) / (2 * float(step[place]))
            assert float(gradient[place]) == pytest.approx(true, abs=1e-6 * float(gradient.abs().max())), kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_variance_at_no_weight_is_that_of_what_remains(kind):
    fitted = DIFFERENTIATED["WLS"]().fitted
    scale = scale_of(fitted, kind, GROUPS if kind == "cluster" else None)
    direction = torch.zeros(4, dtype=torch.float64)
    direction[1] = 1.0
    left = without(fitted, np.array([7, 50]))
    found = Variance(fitted, scale, direction).at(left.weights, left.objective.theta)
    remaining = covariance_matrix(left, at_weights(scale, left))
    assert float(found) == pytest.approx(float(remaining[1, 1]), rel=1e-10)


def test_leaving_one_out_is_exact_for_ridge():
    data = regression()
    line = Ridge(alpha=2.0).fit(data.X, data.y)
    found = uw.from_sklearn(line, data.X, data.y).cross_validation()
    true = cross_val_predict(Ridge(alpha=2.0), data.X, data.y, cv=LeaveOneOut())
    np.testing.assert_allclose(found.predictions[:, 0], true, atol=1e-12)
    np.testing.assert_allclose(found.losses, 0.5 * (data.y - true) ** 2, atol=1e-12)
    assert found.loss == pytest.approx(np.mean(0.5 * (data.y - true) ** 2))
    assert found.optimism == pytest.approx(found.loss - np.mean(0.5 * (data.y - line.predict(data.X)) ** 2))
    assert "out of sample" in repr(found) and found.to_pandas()["prediction"].shape == (40,)
    with pytest.raises(uw.errors.ConfigError, match="no classes"):
        _ = found.probabilities


@pytest.mark.parametrize("classes", [2, 4])
def test_class_probabilities_out_of_sample_are_those_of_really_leaving_out(classes):
    data = classification(n=250, classes=classes)
    words = np.array(["ant", "bee", "cat", "dog"])[data.y]
    model = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(data.X, words)
    found = uw.from_sklearn(model, data.X, words).cross_validation()
    true = cross_val_predict(model, data.X, words, cv=LeaveOneOut(), method="predict_proba")
    assert found.probabilities.shape == (250, classes) and found.classes.tolist() == model.classes_.tolist()
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-12)
    inside = model.predict_proba(data.X)
    assert np.abs(found.probabilities - true).max() < 0.05 * np.abs(inside - true).max()
    assert slope(true - inside, found.probabilities - inside) == pytest.approx(1, abs=0.01)
    assert list(found.to_pandas().columns[2:]) == [f"p({name})" for name in model.classes_]


def test_folds_left_out_as_groups_are_those_of_cross_validation():
    data = classification(n=300, classes=3)
    model = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(data.X, data.y)
    folds = np.arange(300) % 10
    found = uw.from_sklearn(model, data.X, data.y).cross_validation(folds)
    true = cross_val_predict(model, data.X, data.y, cv=LeaveOneGroupOut(), groups=folds, method="predict_proba")
    np.testing.assert_allclose(found.probabilities, true, atol=2e-3)
    assert "10 groups" in repr(found)
    study = uw.from_sklearn(model, data.X, data.y)
    with pytest.raises(uw.errors.ConfigError, match="exactly one"):
        study.cross_validation([[0, 1], [1, 2]])


def test_a_network_is_cross_validated_through_its_outputs():
    _, _, net = fitted_mlp(n=60)
    found = net.cross_validation()
    true = []
    for place in range(0, 60, 12):
        weights = net.fitted.weights.clone()
        weights[place] = 0
        theta = refit(net.fitted, weights)
        batch = net.objective.examples.read(slice(place, place + 1))
        true.append(torch.softmax(net.fitted.engine.outputs(batch, theta)[0], 1)[0])
    inside = torch.softmax(torch.as_tensor(net.fitted.engine.outputs(net.objective.examples.read(slice(0, 60)))[0]), 1)
    moved = found.probabilities[::12] - inside.numpy()[::12]
    assert slope(torch.stack(true).numpy() - inside.numpy()[::12], moved) == pytest.approx(1, abs=0.3)
    first = net.cross_validation(order="first")
    assert "first order" in repr(first) and not np.allclose(first.outputs, found.outputs)


def test_a_point_of_leverage_one_stays_at_first_order_which_is_said():
    design = np.column_stack([X, np.arange(N) == 3]).astype(float)
    found = uw.from_statsmodels(sm.OLS(Y, design).fit()).cross_validation()
    assert "1 of leverage 1 stay at first order" in repr(found) and np.isfinite(found.losses).all()


@pytest.mark.filterwarnings("ignore:.*does not respect the domain")
def test_outputs_that_leave_the_link_are_refused_and_not_nan():
    rng = np.random.default_rng(2)
    x, y = np.append(rng.uniform(1, 3, 5), 9.0), np.append(rng.gamma(1, 1, 5), 0.05)
    line = sm.GLM(y, sm.add_constant(x), family=sm.families.Gamma(sm.families.links.Identity()))
    study = uw.from_statsmodels(line.fit(tol=1e-10))
    with pytest.raises(uw.errors.NonFiniteGradient, match="leave the range of the link"):
        study.cross_validation()


def test_the_derivative_in_the_penalty_is_that_of_refitting():
    data = regression()

    def fit(alpha):
        return Ridge(alpha=alpha).fit(data.X, data.y)

    study = uw.from_sklearn(fit(2.0), data.X, data.y)
    step = 1e-4
    true = [(fit(2.0 + 40 * step), fit(2.0 - 40 * step))]
    found = study.penalty_derivative(measure="parameters")
    slopes = np.append(true[0][0].coef_ - true[0][1].coef_, true[0][0].intercept_ - true[0][1].intercept_) / (2 * step)
    np.testing.assert_allclose(found.values[:, 0], slopes, rtol=1e-5, atol=1e-8)
    assert found.train_ids.tolist() == ["l2"] and "per unit of λ" in repr(found)
    predicted = study.penalty_derivative(data.query, measure="prediction").values[:, 0]
    np.testing.assert_allclose(
        predicted, (true[0][0].predict(data.Xt) - true[0][1].predict(data.Xt)) / (2 * step), rtol=1e-5
    )
    free = uw.from_sklearn(LinearRegression().fit(data.X, data.y), data.X, data.y)
    small = Ridge(alpha=40 * 1e-6).fit(data.X, data.y)
    np.testing.assert_allclose(
        free.penalty_derivative(measure="parameters").values[:4, 0],
        (small.coef_ - LinearRegression().fit(data.X, data.y).coef_) / 1e-6,
        rtol=1e-4,
    )


def test_the_derivative_along_a_lasso_s_path_keeps_its_zeros():
    data = regression(n=60, p=6)

    def fit(alpha):
        return Lasso(alpha=alpha, tol=1e-13, max_iter=100000).fit(data.X, data.y)

    line = fit(0.6)
    study = uw.from_sklearn(line, data.X, data.y)
    active = line.coef_ != 0
    assert 0 < active.sum() < 6
    found = study.penalty_derivative(measure="parameters")
    assert found.train_ids.tolist() == ["l1"]
    step = 1e-5
    true = (fit(0.6 + step).coef_ - fit(0.6 - step).coef_) / (2 * step)
    np.testing.assert_allclose(found.values[: active.sum(), 0], true[active], rtol=1e-5, atol=1e-8)
    with pytest.raises(uw.errors.ConfigError, match="penalty_derivative"):
        study.change_penalty(0.1, data.query)
