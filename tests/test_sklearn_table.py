"""Every estimator scikit-learn fits that can be read, against its own refits; wrappers, names, and what is nearest."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LassoCV,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeCV,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC
from sklearn.tree import DecisionTreeRegressor

import upweight as uw
from cases import pearson, slope

RNG = np.random.default_rng(0)
N, P = 120, 5
X, XT, BETA = RNG.standard_normal((N, P)), RNG.standard_normal((6, P)), RNG.standard_normal(P)
REAL = X @ BETA + RNG.standard_normal(N)
TWO = (X @ BETA + RNG.logistic(size=N) > 0).astype(int)
THREE = np.digitize(X @ BETA + RNG.logistic(size=N), [-1, 1])
COUNT, POSITIVE = RNG.poisson(np.exp(0.3 * X @ BETA)), RNG.gamma(2, np.exp(0.3 * X @ BETA))
PAIR = np.column_stack([REAL, X @ BETA[::-1] + RNG.standard_normal(N)])
WEIGHT = RNG.uniform(0.3, 2, N)
TIGHT = {"tol": 1e-12, "max_iter": 10**6}
WHICH = list(range(0, N, 15))
DESCENT = {"tol": None, "max_iter": 1500, "average": True, "random_state": 0, "alpha": 0.05}


def linear(model, inputs):
    """η."""
    if hasattr(model, "decision_function"):
        return model.decision_function(inputs)
    return model.predict(inputs)


def log_mean(model, inputs):
    return np.log(model.predict(inputs))


EXACT = {
    "RidgeClassifier": (RidgeClassifier(), TWO, linear),
    "RidgeClassifier of three": (RidgeClassifier(), THREE, linear),
    "Ridge of two outcomes": (Ridge(alpha=[0.5, 2.0]), PAIR, linear),
    "TweedieRegressor, power 0": (TweedieRegressor(power=0, alpha=0.1, **TIGHT), REAL, linear),
    "Lasso": (Lasso(alpha=0.1, **TIGHT), REAL, linear),
    "Lasso of two outcomes": (Lasso(alpha=0.1, **TIGHT), PAIR, linear),
    "ElasticNet": (ElasticNet(alpha=0.1, l1_ratio=0.4, **TIGHT), REAL, linear),
    "ElasticNet without intercept": (ElasticNet(alpha=0.1, l1_ratio=0.4, fit_intercept=False, **TIGHT), REAL, linear),
    "KernelRidge": (KernelRidge(alpha=0.5, kernel="rbf", gamma=0.1), REAL, linear),
    "KernelRidge of two outcomes": (KernelRidge(alpha=[0.5, 1.0], kernel="laplacian"), PAIR, linear),
    "GaussianProcessRegressor": (
        GaussianProcessRegressor(RBF(2.0) + WhiteKernel(0.3), alpha=0.2, optimizer=None),
        REAL,
        linear,
    ),
}
CURVED = {
    "PoissonRegressor": (PoissonRegressor(alpha=0.1, **TIGHT), COUNT, log_mean, 0.03),
    "GammaRegressor": (GammaRegressor(alpha=0.1, **TIGHT), POSITIVE, log_mean, 0.03),
    "TweedieRegressor": (TweedieRegressor(power=1.5, alpha=0.1, **TIGHT), POSITIVE, log_mean, 0.03),
    "HuberRegressor": (HuberRegressor(alpha=0.1, tol=1e-10, max_iter=10000), REAL, linear, 0.08),
    "HuberRegressor without intercept": (
        HuberRegressor(alpha=0.1, tol=1e-10, max_iter=10000, fit_intercept=False),
        REAL,
        linear,
        0.08,
    ),
    "LinearSVC": (LinearSVC(**TIGHT), TWO, linear, 0.1),
    "LinearSVC of three": (LinearSVC(C=0.3, **TIGHT), THREE, linear, 0.05),
    "LinearSVC, class weights": (LinearSVC(class_weight={0: 2.0, 1: 0.5}, **TIGHT), TWO, linear, 0.05),
    "LinearSVR, squared": (
        LinearSVR(epsilon=0.2, C=0.1, loss="squared_epsilon_insensitive", **TIGHT),
        REAL,
        linear,
        0.05,
    ),
    "SGDClassifier, log loss": (SGDClassifier(loss="log_loss", **DESCENT), TWO, linear, 0.05),
    "SGDClassifier of three": (SGDClassifier(loss="log_loss", **DESCENT), THREE, linear, 0.05),
    "SGDClassifier, elastic net": (
        SGDClassifier(loss="log_loss", penalty="elasticnet", l1_ratio=0.5, **(DESCENT | {"average": False})),
        TWO,
        linear,
        0.05,
    ),
    "SGDClassifier, modified Huber": (SGDClassifier(loss="modified_huber", **DESCENT), TWO, linear, 0.05),
    "SGDRegressor": (SGDRegressor(**DESCENT), REAL, linear, 0.05),
    "SGDRegressor, Huber": (SGDRegressor(loss="huber", epsilon=1.0, **DESCENT), REAL, linear, 0.05),
}


def changes(estimator, y, outputs):
    model = clone(estimator).fit(X, y)
    study = uw.from_sklearn(model, X, y)
    found = study.drop((XT, None), measure="prediction", which=WHICH)
    before, true = outputs(model, XT), []
    for place in WHICH:
        again = clone(estimator).fit(np.delete(X, place, 0), np.delete(y, place, 0))
        true.append((outputs(again, XT) - before).ravel())
    return study, found, np.stack(true, 1)


@pytest.mark.parametrize("name", EXACT)
def test_dropping_equals_refitting_where_the_objective_is_quadratic(name):
    study, found, true = changes(*EXACT[name])
    assert study.fitted.stationarity.ratio < 1e-7
    assert np.linalg.norm(found.values - true) <= 1e-6 * np.linalg.norm(true)


@pytest.mark.parametrize("name", CURVED)
def test_dropping_follows_refits(name):
    *case, tolerance = CURVED[name]
    study, found, true = changes(*case)
    assert study.fitted.stationarity.ratio < 0.01
    assert slope(true, found.values) == pytest.approx(1, abs=tolerance)
    assert pearson(true, found.values) > 0.99


HINGES = {
    "LinearSVC": (LinearSVC(loss="hinge", C=0.1, **TIGHT), TWO),
    "SVC": (SVC(kernel="linear", tol=1e-10, C=0.1), TWO),
    "LinearSVR": (LinearSVR(epsilon=0.2, C=0.1, **TIGHT), REAL),
    "SVR": (SVR(kernel="linear", tol=1e-10, C=0.1, epsilon=0.2), REAL),
}


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
@pytest.mark.parametrize("name", HINGES)
def test_corners_are_smoothed_which_is_said_and_groups_follow_refits_as_far_as_these_jump(name):
    estimator, y = HINGES[name]
    model, rng = clone(estimator).fit(X, y), np.random.default_rng(0)
    groups = [rng.choice(N, 12, replace=False).tolist() for _ in range(20)]
    refits = [clone(estimator).fit(np.delete(X, group, 0), np.delete(y, group)) for group in groups]
    true = np.stack([linear(again, XT) - linear(model, XT) for again in refits], 1)
    found = uw.from_sklearn(model, X, y).drop_group(groups, (XT, None), measure="prediction")
    assert "smoothed over 0.03" in repr(found)
    assert pearson(true, found.values) > 0.85 and 0.75 < slope(true, found.values) < 1.4
    sharp = uw.from_sklearn(model, X, y, smoothing=1e-3).drop_group(groups, (XT, None), measure="prediction")
    assert pearson(true, sharp.values) < pearson(true, found.values)


NETWORKS = {
    "MLPRegressor": (MLPRegressor(hidden_layer_sizes=(3,), alpha=3.0), REAL),
    "MLPRegressor, one hidden unit": (MLPRegressor(hidden_layer_sizes=(1,), alpha=3.0), REAL),
    "MLPClassifier": (MLPClassifier(hidden_layer_sizes=(3,), alpha=2.0), TWO),
    "MLPClassifier of three": (MLPClassifier(hidden_layer_sizes=(3, 3), alpha=2.0), THREE),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_perceptron_is_its_torch_network(name):
    estimator, y = NETWORKS[name]
    model = estimator.set_params(
        activation="tanh", solver="lbfgs", tol=1e-14, max_iter=20000, max_fun=10**6, random_state=0
    )
    model.fit(X, y)
    study = uw.from_sklearn(model, X, y)
    assert study.protocol == "fixed_total" and study.fitted.stationarity.ratio < 1e-3
    outputs = study.fitted.engine.outputs(study.fitted.adapted.codec.read((XT, None), "query").read(slice(0, 6)))[0]
    found = study.objective.loss.mean(outputs).numpy()
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(found[:, -1], model.predict_proba(XT)[:, -1], atol=1e-12)
    else:
        np.testing.assert_allclose(found[:, 0], model.predict(XT), atol=1e-12)
    calibrated = study.check((XT, y[:6]), refits=20)
    assert 0.8 < calibrated.slope < 1.2 and calibrated.pearson > 0.9


def test_a_perceptron_that_descended_in_batches_has_the_penalty_of_a_batch():
    model = MLPClassifier((4,), batch_size=30, alpha=0.6, max_iter=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = uw.from_sklearn(model.fit(X, TWO), X, TWO)
    assert study.protocol == "fixed_mean"
    assert float(study.objective.penalty.diagonal.max()) == pytest.approx(0.6 / 30)
    weights = sum(coefs.size for coefs in model.coefs_)
    assert int((study.objective.penalty.diagonal > 0).sum()) == weights


def test_gaussian_process_classification_is_taken_at_laplace_s_mode():
    def latent(model, inputs):
        inner = model.base_estimator_
        return inner.kernel_(inputs, inner.X_train_) @ (inner.y_train_ - inner.pi_)

    estimator = GaussianProcessClassifier(2.0 * RBF(2.0), optimizer=None, max_iter_predict=1000)
    study, found, true = changes(estimator, TWO, latent)
    assert study.fitted.stationarity.ratio < 1e-8
    assert slope(true, found.values) == pytest.approx(1, abs=0.03) and pearson(true, found.values) > 0.999
    with pytest.raises(uw.errors.ModelError, match="two classes"):
        uw.from_sklearn(GaussianProcessClassifier().fit(X, THREE), X, THREE)


def test_a_normalised_gaussian_process_predicts_in_the_user_s_units():
    model = GaussianProcessRegressor(RBF(2.0), alpha=0.3, optimizer=None, normalize_y=True).fit(X, 5 + 3 * REAL)
    study = uw.from_sklearn(model, X, 5 + 3 * REAL)
    outputs = study.fitted.engine.outputs(study.fitted.adapted.codec.read((XT, None), "query").read(slice(0, 6)))[0]
    np.testing.assert_allclose(outputs[:, 0], model.predict(XT), atol=1e-9)
    assert study.fitted.stationarity.ratio < 1e-9
    noisy = GaussianProcessRegressor(RBF(2.0), alpha=WEIGHT, optimizer=None).fit(X, REAL)
    assert uw.from_sklearn(noisy, X, REAL).fitted.stationarity.ratio < 1e-9
    both = GaussianProcessRegressor(RBF(2.0), alpha=0.3, optimizer=None, normalize_y=True).fit(X, PAIR)
    with pytest.raises(uw.errors.ModelError, match="normalize_y=False"):
        uw.from_sklearn(both, X, PAIR)


CHOSEN = {
    "RidgeCV": (RidgeCV([0.1, 1.0]), lambda m: Ridge(alpha=m.alpha_), REAL),
    "LassoCV": (LassoCV(alphas=[0.05, 0.1], **TIGHT), lambda m: Lasso(alpha=m.alpha_, **TIGHT), REAL),
    "LogisticRegressionCV": (
        LogisticRegressionCV(
            Cs=[0.1, 1.0], tol=1e-10, max_iter=5000, use_legacy_attributes=False, l1_ratios=(0,), scoring="accuracy"
        ),
        lambda m: LogisticRegression(C=float(np.ravel(m.C_)[0]), tol=1e-10, max_iter=5000),
        TWO,
    ),
    "GridSearchCV": (GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}), lambda m: m.best_estimator_, REAL),
    "CalibratedClassifierCV": (
        CalibratedClassifierCV(LogisticRegression(tol=1e-10), ensemble=False),
        lambda m: m.calibrated_classifiers_[0].estimator,
        TWO,
    ),
}


def test_sparse_inputs_stay_sparse_and_equal_dense_ones():
    thin = np.where(np.abs(X) > 0.7, X, 0)
    for estimator, y in (
        (Lasso(alpha=0.1, **TIGHT), REAL),
        (HuberRegressor(alpha=0.1, tol=1e-10, max_iter=10000), REAL),
        (SGDClassifier(loss="log_loss", **DESCENT), TWO),
        (SGDClassifier(loss="log_loss", penalty="elasticnet", l1_ratio=0.5, **(DESCENT | {"average": False})), TWO),
    ):
        model = clone(estimator).fit(thin, y)
        dense, held = (uw.from_sklearn(model, inputs, y) for inputs in (thin, sparse.csr_array(thin)))
        assert type(held.objective.examples).__name__ == "SparseArrays"
        found = held.drop((sparse.csr_array(XT), None), measure="prediction", which=WHICH).values
        np.testing.assert_allclose(found, dense.drop((XT, None), measure="prediction", which=WHICH).values, atol=1e-12)


@pytest.mark.parametrize("name", CHOSEN)
def test_what_was_chosen_by_a_search_is_held_fixed_and_said(name):
    estimator, inside, y = CHOSEN[name]
    model = clone(estimator).fit(X, y)
    study = uw.from_sklearn(model, X, y)
    plain = uw.from_sklearn(clone(inside(model)).fit(X, y), X, y)
    found, expected = (s.drop((XT, None), measure="prediction", which=WHICH) for s in (study, plain))
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
    assert "held fixed" in repr(found) or "before calibration" in repr(found)


def test_a_transformed_target_is_read_as_it_was_fitted():
    model = TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1).fit(X, POSITIVE)
    study = uw.from_sklearn(model, X, POSITIVE)
    plain = uw.from_sklearn(Ridge().fit(X, np.log1p(POSITIVE)), X, np.log1p(POSITIVE))
    np.testing.assert_allclose(
        study.drop((XT, POSITIVE[:6])).values, plain.drop((XT, np.log1p(POSITIVE[:6]))).values, atol=1e-12
    )
    assert "transformed target" in repr(study.drop((XT, POSITIVE[:6])))


def test_wrappers_inside_pipelines_and_frozen_ones_are_taken_off():
    search = make_pipeline(StandardScaler(), GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]})).fit(X, REAL)
    found = uw.from_sklearn(search, X, REAL).drop((XT, REAL[:6]))
    assert "What the search chose is held fixed" in repr(found) and "Transformers held fixed" in repr(found)
    frozen = uw.from_sklearn(FrozenEstimator(Ridge().fit(X, REAL)), X, REAL)
    assert "frozen" in repr(frozen.drop((XT, REAL[:6])))


def test_parameters_are_called_what_the_columns_are():
    frame = pd.DataFrame(X, columns=["age", "educ", "black", "re74", "re75"])
    line = uw.from_sklearn(Ridge().fit(frame, REAL), frame, REAL)
    assert line.drop(measure="parameters").query_ids.tolist() == [*frame.columns, "intercept"]
    words = np.array(["ant", "bee", "cat"])[THREE]
    soft = uw.from_sklearn(LogisticRegression().fit(frame, words), frame, words)
    assert soft.parameters().to_pandas().columns.tolist()[:6] == [*(f"{c}[ant]" for c in frame.columns), "age[bee]"]
    piped = make_pipeline(StandardScaler(), Lasso(alpha=0.3)).fit(frame, REAL)
    names = uw.from_sklearn(piped, frame, REAL).objective.space.coordinates()
    assert names == [*frame.columns[piped[-1].coef_ != 0], "intercept"]
    found = line.worst_case("sign", of="age", most=30)
    again = Ridge().fit(frame.drop(index=list(found.ids)), np.delete(REAL, found.ids))
    assert float(found.after) == pytest.approx(again.coef_[0])


def test_an_unpenalised_regression_has_the_standard_errors_of_statsmodels():
    import statsmodels.api as sm

    results = sm.OLS(REAL, sm.add_constant(X)).fit()
    study = uw.from_sklearn(LinearRegression().fit(X, REAL), X, REAL)
    for kind, theirs in (("classical", results.bse), ("hc3", results.HC3_se)):
        np.testing.assert_allclose(study.standard_errors(kind), np.roll(theirs, -1), rtol=1e-9)
    weighted = sm.WLS(REAL, sm.add_constant(X), weights=WEIGHT).fit()
    model = LinearRegression().fit(X, REAL, sample_weight=WEIGHT)
    found = uw.from_sklearn(model, X, REAL, sample_weight=WEIGHT).standard_errors("classical")
    np.testing.assert_allclose(found, np.roll(weighted.bse, -1), rtol=1e-9)
    logit = sm.Logit(TWO, sm.add_constant(X)).fit(disp=0, tol=1e-12)
    free = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5000, solver="newton-cholesky").fit(X, TWO)
    np.testing.assert_allclose(
        uw.from_sklearn(free, X, TWO).standard_errors("classical"), np.roll(logit.bse, -1), rtol=1e-5
    )


UNSUPPORTED = {
    "a forest": (RandomForestClassifier(3), TWO, "LogisticRegression or MLPClassifier"),
    "a forest of numbers": (RandomForestRegressor(3), REAL, "Ridge, KernelRidge or MLPRegressor"),
    "a tree": (DecisionTreeRegressor(), REAL, "KernelRidge"),
    "naive Bayes": (GaussianNB(), TWO, "LogisticRegression"),
    "Perceptron": (Perceptron(), TWO, "loss='hinge'"),
    "NuSVC": (NuSVC(kernel="linear"), TWO, "SVC"),
    "SVC of a kernel": (SVC(), TWO, "kernel='linear'"),
    "SVC of three": (SVC(kernel="linear"), THREE, "LinearSVC"),
    "LinearSVC, l1": (LinearSVC(penalty="l1"), TWO, "penalty='l2'"),
    "LinearSVC, Crammer-Singer": (LinearSVC(multi_class="crammer_singer"), THREE, "multi_class='ovr'"),
    "LinearSVC, weighted classes": (LinearSVC(class_weight="balanced"), THREE, "sample_weight"),
    "SGD, perceptron": (SGDClassifier(loss="perceptron"), TWO, "'hinge'"),
    "positive Lasso": (Lasso(positive=True), REAL, "positive=False"),
    "a calibrated ensemble": (CalibratedClassifierCV(LogisticRegression()), TWO, "ensemble=False"),
    "a search that did not refit": (GridSearchCV(Ridge(), {"alpha": [1.0]}, refit=False), REAL, "refit=True"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_names_what_is_nearest(name):
    estimator, y, nearest = UNSUPPORTED[name]
    with pytest.raises(uw.errors.ModelError) as caught:
        uw.from_sklearn(estimator.fit(X, y), X, y)
    assert nearest in str(caught.value)


def test_what_is_no_estimator_is_refused():
    with pytest.raises(uw.errors.ModelError, match="not fitted"):
        uw.from_sklearn(FixedThresholdClassifier(LogisticRegression()), X, TWO)
    with pytest.raises(uw.errors.ModelError, match="fitted scikit-learn estimator"):
        uw.from_sklearn(object(), X, REAL)
