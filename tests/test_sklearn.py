"""scikit-learn: the objective each estimator minimised, in the user's labels, against its own refits."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import upweight as uw
from cases import classification, regression, slope

LOGISTIC = {
    "binary": (2, LogisticRegression(C=0.5)),
    "binary without intercept": (2, LogisticRegression(C=0.5, fit_intercept=False)),
    "multinomial": (4, LogisticRegression(C=0.5)),
    "multinomial without intercept": (4, LogisticRegression(C=0.5, fit_intercept=False)),
    "class weights": (3, LogisticRegression(C=0.5, class_weight={0: 2.0, 1: 0.5})),
    "liblinear": (2, LogisticRegression(C=0.5, solver="liblinear", intercept_scaling=2.0)),
    "newton-cholesky": (3, LogisticRegression(C=5.0, solver="newton-cholesky")),
    "no penalty": (2, LogisticRegression(C=np.inf, solver="newton-cholesky")),
}


def tight(estimator):
    return clone(estimator).set_params(tol=1e-12, max_iter=20000)


@pytest.mark.parametrize("name", LOGISTIC)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_objective_is_the_one_that_was_minimised(name, weighted):
    classes, estimator = LOGISTIC[name]
    data = classification(n=300, classes=classes)
    weight = np.random.default_rng(0).uniform(0.2, 3, 300) if weighted else None
    fitted = tight(estimator).fit(data.X, data.y, sample_weight=weight)
    study = uw.from_sklearn(fitted, data.X, data.y, sample_weight=weight)
    assert study.fitted.stationarity.ratio < 1e-4
    assert study.objective.total_weight == pytest.approx(1)
    found = study.drop(data.query, measure="probability", which=range(8)).values
    before = fitted.predict_proba(data.Xt)[np.arange(4), data.yt]
    true = []
    for i in range(8):
        kept = None if weight is None else np.delete(weight, i)
        again = tight(estimator).fit(np.delete(data.X, i, 0), np.delete(data.y, i), sample_weight=kept)
        true.append(again.predict_proba(data.Xt)[np.arange(4), data.yt] - before)
    assert 0.93 <= slope(np.stack(true, 1), found) <= 1.07


def test_balanced_class_weights_are_held_fixed_and_said():
    data = classification(n=120, classes=3)
    fitted = tight(LogisticRegression(class_weight="balanced")).fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y)
    assert study.fitted.stationarity.ratio < 1e-4
    assert "Balanced class weights are held fixed" in repr(study.drop(data.query))


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
def test_sparse_inputs_equal_dense_ones(kind):
    data = classification(n=80, classes=3)
    X = np.where(np.abs(data.X) > 0.5, data.X, 0)
    fitted = tight(LogisticRegression()).fit(X, data.y)
    dense, thin = (uw.from_sklearn(fitted, inputs, data.y) for inputs in (X, kind(X)))
    np.testing.assert_allclose(thin.drop(data.query).values, dense.drop(data.query).values, atol=1e-13)
    np.testing.assert_allclose(
        thin.drop((kind(data.Xt), data.yt), which=[5]).values, dense.drop(data.query, which=[5]).values, atol=1e-13
    )
    np.testing.assert_allclose(
        thin.drop_group([[0, 1]], data.query).values, dense.drop_group([[0, 1]], data.query).values, atol=1e-13
    )


def test_labels_are_the_user_s_words():
    data = classification(n=80, classes=3)
    words = np.array(["cat", "ant", "bee"])
    fitted = tight(LogisticRegression()).fit(data.X, words[data.y])
    study = uw.from_sklearn(fitted, data.X, words[data.y])
    relabelled = study.relabel({0: "bee", 1: "ant"}, (data.Xt, words[data.yt])).values
    codes = {"ant": 0, "bee": 1, "cat": 2}
    coded = np.array([codes[w] for w in words[data.y]])
    plain = uw.from_sklearn(tight(LogisticRegression()).fit(data.X, coded), data.X, coded)
    expected = plain.relabel({0: 1, 1: 0}, (data.Xt, np.array([codes[w] for w in words[data.yt]]))).values
    np.testing.assert_allclose(relabelled, expected, atol=1e-10)
    table = study.mislabeled(5)
    assert set(table["label"]) <= set(words) and set(table["predicted"]) <= set(words)
    assert table["label"].tolist() == words[data.y][table["train"]].tolist()
    assert table["predicted"].tolist() == fitted.predict(data.X[table["train"]]).tolist()


def test_a_pipeline_holds_its_transformers_fixed_and_says_so():
    data = regression(n=60)
    pipeline = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False), Ridge(alpha=1.0)).fit(
        data.X, data.y
    )
    study = uw.from_sklearn(pipeline, data.X, data.y)
    effects = study.drop(data.query, measure="prediction")
    assert "Transformers held fixed" in repr(effects)
    features, queries = pipeline[:-1].transform(data.X), pipeline[:-1].transform(data.Xt)
    for i in (0, 30):
        again = Ridge(alpha=1.0).fit(np.delete(features, i, 0), np.delete(data.y, i))
        np.testing.assert_allclose(effects.values[:, i], again.predict(queries) - pipeline.predict(data.Xt), atol=1e-10)


def test_an_unpenalised_intercept_s_softmax_gauge_is_projected_out_and_reported():
    data = classification(n=300, classes=4)
    fitted = tight(LogisticRegression(C=0.5)).fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y)
    effects = study.drop(data.query)
    assert "1 gauge direction projected out" in repr(effects)
    assert study.trust().lowest_curvature > 0
    moved = study.drop(measure="parameters").values
    again = tight(LogisticRegression(C=0.5)).fit(np.delete(data.X, 3, 0), np.delete(data.y, 3))
    np.testing.assert_allclose(moved[16:, 3].sum(), 0, atol=1e-12)
    assert slope(
        np.append(again.coef_.ravel() - fitted.coef_.ravel(), again.intercept_ - fitted.intercept_), moved[:, 3]
    ) == pytest.approx(1, abs=0.05)
    unpenalised = uw.from_sklearn(
        tight(LogisticRegression(C=np.inf, solver="newton-cg")).fit(data.X, data.y), data.X, data.y
    )
    assert "5 gauge directions projected out" in repr(unpenalised.drop(data.query))


def test_mislabelled_points_are_found():
    rng = np.random.default_rng(0)
    data = classification(n=400, p=5, classes=3)
    y = data.y.copy()
    wrong = rng.choice(400, 20, replace=False)
    y[wrong] = (y[wrong] + 1) % 3
    study = uw.from_sklearn(tight(LogisticRegression()).fit(data.X, y), data.X, y)
    table = study.mislabeled(40)
    assert len(set(table["train"]) & set(wrong)) >= 10
    np.testing.assert_array_equal(table["self_influence"], np.sort(study.self_influence())[::-1][:40])
    assert {"loss", "loss_rank", "confidence"} <= set(table.columns)
    np.testing.assert_allclose(np.exp(-table["loss"]), table["confidence"])


def test_trust_speaks_of_what_was_measured():
    data = classification(n=60)
    loose = uw.from_sklearn(LogisticRegression(max_iter=3, tol=1e-1, C=1e6).fit(data.X, data.y), data.X, data.y)
    text = str(loose.trust())
    for word in ("stationarity", "lowest eigenvalue", "residual", "leverage", "concern"):
        assert word in text
    tightly = uw.from_sklearn(tight(LogisticRegression()).fit(data.X, data.y), data.X, data.y).trust()
    assert tightly.concerns == [] and tightly.stationarity.reached
    H = uw.curvature.hessian(loose.objective).dense().numpy()
    assert loose.trust().lowest_curvature == pytest.approx(np.linalg.eigvalsh(H)[0], rel=1e-6)
    assert loose.trust().mean_curvature == pytest.approx(np.linalg.eigvalsh(H).mean())
    assert loose.trust().highest_leverage == pytest.approx(loose.leverage().max())


def test_check_can_train_your_way():
    data = classification(n=60)
    fitted = tight(LogisticRegression()).fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y)

    def train(weights, seed):
        again = tight(LogisticRegression()).fit(data.X[weights > 0], data.y[weights > 0])
        return {"weight": again.coef_, "bias": again.intercept_}

    own, given = study.check(data.query, refits=8), study.check(data.query, refits=8, train=train)
    np.testing.assert_allclose(own.refitted, given.refitted, atol=1e-6)
    np.testing.assert_array_equal(own.train_ids, given.train_ids)
    assert "8 real refits" in repr(own)
    assert len(own.to_pandas()) == 32 and len(own.per_query()) == 4
    with pytest.raises(uw.errors.ConfigError, match="'weight'"):
        study.check(data.query, refits=4, train=lambda weights, seed: {})
