"""statsmodels: every family of models against its own refits, in the user's names, by formula or by array."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
import torch
from scipy import stats
from statsmodels.sandbox.regression.gmm import IV2SLS

import upweight as uw
from cases import pearson, slope
from upweight.objective.robust import NORMS, RobustNorm
from upweight.questions.question import Question

F, L = sm.families, sm.families.links
N = 100


class Data:
    """One sample with an outcome for every family."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.X = sm.add_constant(rng.standard_normal((N, 2)))
        self.positive = sm.add_constant(rng.uniform(0.5, 1.5, (N, 2)))
        eta = self.X @ np.array([0.5, 0.4, -0.3])
        mu, p = np.exp(eta), 1 / (1 + np.exp(-eta))
        self.real = eta + rng.standard_normal(N)
        self.binary = (rng.uniform(size=N) < p).astype(float)
        self.three = np.digitize(self.real, [0, 1])
        self.count = rng.poisson(mu).astype(float)
        self.over = rng.poisson(mu * rng.gamma(2, 0.5, N)).astype(float)
        self.gamma = rng.gamma(2, mu / 2)
        self.inverse = rng.wald(mu, 3.0)
        self.zeros = np.where(rng.uniform(size=N) < 0.2, 0, self.gamma)
        self.share = np.clip(p + 0.1 * rng.standard_normal(N), 0.02, 0.98)
        trials = rng.integers(1, 20, N)
        won = rng.binomial(trials, p)
        self.won = np.column_stack([won, trials - won])
        self.offset, self.exposure = rng.uniform(-0.5, 0.5, N), rng.uniform(1, 3, N)
        self.weight, self.frequency = rng.uniform(0.5, 2, N), rng.integers(1, 4, N).astype(float)
        self.time = rng.exponential(1 / mu)
        self.rounded = np.ceil(10 * self.time) / 10
        self.failed = (rng.uniform(size=N) < 0.8).astype(float)
        self.entry = np.minimum(rng.uniform(0, 0.1, N), self.time * 0.5)
        self.stratum = rng.integers(0, 2, N)
        self.instrument = np.column_stack([self.X + 0.3 * rng.standard_normal((N, 3)), self.X[:, 1] ** 2])


D = Data()
EVERYONE = np.arange(N)


def glm(outcome, family, X="X", **how):
    def fit(keep):
        given = {name: getattr(D, of)[keep] for name, of in how.items()}
        return sm.GLM(getattr(D, outcome)[keep], getattr(D, X)[keep], family=family, **given).fit(
            tol=1e-13, maxiter=300
        )

    return fit


def polished(model):
    """Fitted by statsmodels' own search, then by Newton's method from there: the search alone stalls on some machines."""
    start = model.fit(disp=0, gtol=1e-5).params
    return model.fit(start_params=start, method="newton", disp=0, tol=1e-12)


EXACT = {
    "OLS": lambda k: sm.OLS(D.real[k], D.X[k]).fit(),
    "WLS": lambda k: sm.WLS(D.real[k], D.X[k], weights=D.weight[k]).fit(),
    "GLS, unequal variances": lambda k: sm.GLS(D.real[k], D.X[k], sigma=D.weight[k]).fit(),
    "GLM gaussian": glm("real", F.Gaussian()),
    "GLM gaussian weighted": glm("real", F.Gaussian(), var_weights="weight"),
    "ridge": lambda k: sm.OLS(D.real[k], D.X[k]).fit_regularized(alpha=0.1, L1_wt=0.0),
    "IV2SLS": lambda k: IV2SLS(D.real[k], D.X[k], D.instrument[k]).fit(),
}
"""Quadratic objectives: the corrected drop is the refit itself."""

CURVED = {
    "GLM gaussian log": (glm("gamma", F.Gaussian(L.Log())), 0.03),
    "GLM binomial logit": (glm("binary", F.Binomial()), 0.03),
    "GLM binomial probit": (glm("binary", F.Binomial(L.Probit())), 0.03),
    "GLM binomial cloglog": (glm("binary", F.Binomial(L.CLogLog())), 0.03),
    "GLM binomial loglog": (glm("binary", F.Binomial(L.LogLog())), 0.03),
    "GLM binomial cauchy": (glm("binary", F.Binomial(L.Cauchy())), 0.06),
    "GLM binomial shares": (glm("share", F.Binomial()), 0.03),
    "GLM binomial counts of trials": (glm("won", F.Binomial(L.Probit())), 0.03),
    "GLM poisson": (glm("count", F.Poisson()), 0.03),
    "GLM poisson, offset and exposure": (glm("count", F.Poisson(), offset="offset", exposure="exposure"), 0.03),
    "GLM poisson, frequencies": (glm("count", F.Poisson(), freq_weights="frequency"), 0.03),
    "GLM poisson sqrt": (glm("count", F.Poisson(L.Sqrt()), "positive"), 0.03),
    "GLM gamma log": (glm("gamma", F.Gamma(L.Log())), 0.03),
    "GLM gamma inverse": (glm("gamma", F.Gamma(), "positive"), 0.03),
    "GLM gamma, variances": (glm("gamma", F.Gamma(L.Log()), var_weights="weight"), 0.03),
    "GLM inverse gaussian log": (glm("inverse", F.InverseGaussian(L.Log())), 0.06),
    "GLM negative binomial": (glm("over", F.NegativeBinomial(alpha=0.5)), 0.03),
    "GLM tweedie": (glm("zeros", F.Tweedie(L.Log(), var_power=1.5)), 0.03),
    "Logit": (lambda k: sm.Logit(D.binary[k], D.X[k]).fit(disp=0, tol=1e-13), 0.03),
    "Probit": (lambda k: sm.Probit(D.binary[k], D.X[k]).fit(disp=0, tol=1e-13), 0.03),
    "Poisson": (
        lambda k: sm.Poisson(D.count[k], D.X[k], offset=D.offset[k], exposure=D.exposure[k]).fit(disp=0, tol=1e-13),
        0.03,
    ),
    "NegativeBinomial NB2": (
        lambda k: polished(sm.NegativeBinomial(D.over[k], D.X[k])),
        0.05,
    ),
    "NegativeBinomial NB2, offset": (
        lambda k: polished(sm.NegativeBinomial(D.over[k], D.X[k], offset=D.offset[k])),
        0.05,
    ),
    "NegativeBinomial NB1": (
        lambda k: polished(sm.NegativeBinomial(D.over[k], D.X[k], loglike_method="nb1")),
        0.05,
    ),
    "geometric": (
        lambda k: polished(sm.NegativeBinomial(D.over[k], D.X[k], loglike_method="geometric")),
        0.03,
    ),
    "MNLogit": (lambda k: sm.MNLogit(D.three[k], D.X[k]).fit(disp=0, tol=1e-13), 0.03),
    "RLM Huber": (lambda k: sm.RLM(D.real[k], D.X[k]).fit(tol=1e-12, maxiter=500), 0.03),
    "RLM Tukey": (
        lambda k: sm.RLM(D.real[k], D.X[k], M=sm.robust.norms.TukeyBiweight()).fit(tol=1e-12, maxiter=500),
        0.03,
    ),
    "RLM Hampel": (lambda k: sm.RLM(D.real[k], D.X[k], M=sm.robust.norms.Hampel()).fit(tol=1e-12, maxiter=500), 0.03),
    "PHReg": (lambda k: sm.PHReg(D.time[k], D.X[k, 1:], status=D.failed[k]).fit(tol=1e-10), 0.03),
    "PHReg, ties, strata, offset": (
        lambda k: sm.PHReg(D.rounded[k], D.X[k, 1:], status=D.failed[k], strata=D.stratum[k], offset=D.offset[k]).fit(
            tol=1e-10
        ),
        0.03,
    ),
    "PHReg, late entry": (
        lambda k: sm.PHReg(D.time[k], D.X[k, 1:], status=D.failed[k], entry=D.entry[k]).fit(tol=1e-10),
        0.03,
    ),
}
"""One Newton step: slope of the refits on the prediction, and how far it may be from 1."""


def coefficients(results, study):
    """The results' parameters, and where they lie among the study's."""
    found = np.asarray(results.params)
    found = found.T.ravel() if found.ndim == 2 else found
    shown = study.fitted.adapted.inference.shown or slice(0, len(found))
    return found, shown


def refits(fit, which):
    results = fit(EVERYONE)
    study = uw.from_statsmodels(results)
    before, shown = coefficients(results, study)
    after = [coefficients(fit(np.delete(EVERYONE, place)), study)[0] for place in which]
    found = study.drop(measure="parameters", which=which).values[shown]
    return study, found, np.stack(after, 1) - before[:, None]


@pytest.mark.parametrize("name", EXACT)
def test_dropping_equals_refitting_where_the_objective_is_quadratic(name):
    study, found, true = refits(EXACT[name], range(0, N, 9))
    assert np.linalg.norm(found - true) <= 1e-6 * np.linalg.norm(true)
    assert study.fitted.stationarity.ratio < 1e-9


@pytest.mark.filterwarnings("ignore:.*does not respect the domain", "ignore:Maximum Likelihood optimization failed")
@pytest.mark.parametrize("name", CURVED)
def test_dropping_follows_refits(name):
    fit, tolerance = CURVED[name]
    study, found, true = refits(fit, range(0, N, 9))
    assert study.fitted.stationarity.ratio < 1e-5
    assert slope(true, found) == pytest.approx(1, abs=tolerance)
    assert pearson(true, found) > 0.995


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(3)
    found = pd.DataFrame(
        {"age": rng.uniform(20, 60, N), "group": rng.choice(list("abc"), N), "weeks": rng.uniform(1, 9, N)},
        index=[f"person {place}" for place in range(N)],
    )
    found["wage"] = np.exp(1 + 0.02 * found["age"] + 0.3 * (found["group"] == "b") + 0.4 * rng.standard_normal(N))
    found["visits"] = rng.poisson(found["weeks"] * np.exp(-1 + 0.02 * found["age"]))
    found.loc["person 3", "age"] = np.nan
    return found


def test_parameters_and_rows_have_the_user_s_names_and_missing_rows_are_gone(frame):
    results = smf.ols("np.log(wage) ~ age + C(group)", frame).fit()
    study = uw.from_statsmodels(results)
    moved = study.drop(measure="parameters")
    assert moved.query_ids.tolist() == ["Intercept", "C(group)[T.b]", "C(group)[T.c]", "age"]
    assert len(moved.train_ids) == N - 1 and "person 3" not in moved.train_ids and moved.train_ids[3] == "person 4"
    again = smf.ols("np.log(wage) ~ age + C(group)", frame.drop(index="person 7")).fit()
    np.testing.assert_allclose(
        study.drop(measure="parameters", which="person 7").values[:, 0], again.params - results.params, atol=1e-12
    )


@pytest.mark.parametrize("engine", ["patsy", "formulaic"])
def test_held_out_points_are_read_by_the_formula(frame, engine, monkeypatch):
    monkeypatch.setattr("statsmodels.formula.options.formula_engine", engine)
    results = smf.ols("np.log(wage) ~ age + C(group)", frame).fit()
    study = uw.from_statsmodels(results)
    asked = frame.loc[["person 8", "person 9"]]
    unknown = asked.drop(columns="wage")
    without = frame.drop(index="person 7")
    again = smf.ols("np.log(wage) ~ age + C(group)", without).fit()
    change = again.predict(unknown) - results.predict(unknown)
    found = study.drop(unknown, measure="prediction", which="person 7")
    np.testing.assert_allclose(found.values[:, 0], change, atol=1e-12)
    assert found.query_ids.tolist() == ["person 8", "person 9"]
    residual = np.log(asked["wage"]) - results.predict(asked)
    np.testing.assert_allclose(
        study.drop(asked, which="person 7").values[:, 0],
        0.5 * (np.log(asked["wage"]) - again.predict(asked)) ** 2 - 0.5 * residual**2,
        atol=1e-12,
    )
    with pytest.raises(uw.errors.NonFiniteInput, match="person 3"):
        study.drop(frame.loc[["person 3"]], measure="prediction")
    with pytest.raises(uw.errors.ShapeError, match="could not be read by the model's formula"):
        study.drop(unknown.drop(columns="age"), measure="prediction")
    with pytest.raises(uw.errors.ShapeError, match="no targets"):
        study.drop(unknown)


def test_exposure_of_held_out_points_must_be_given_and_counts(frame):
    kept = frame.dropna()
    results = smf.glm("visits ~ age", kept, family=F.Poisson(), exposure=kept["weeks"]).fit(tol=1e-12)
    study = uw.from_statsmodels(results)
    asked, without = kept.iloc[:2], kept.drop(index="person 7")
    with pytest.raises(uw.errors.ConfigError, match="'offset'"):
        study.drop(asked)
    query = {"exog": asked, "endog": asked["visits"], "exposure": asked["weeks"]}
    again = smf.glm("visits ~ age", without, family=F.Poisson(), exposure=without["weeks"]).fit(tol=1e-12)
    found = study.drop(query, measure="mean", which="person 7").values[:, 0]
    change = again.predict(asked, exposure=asked["weeks"]) - results.predict(asked, exposure=asked["weeks"])
    np.testing.assert_allclose(found, change, rtol=0.05)
    with pytest.raises(uw.errors.ConfigError, match="without one"):
        uw.from_statsmodels(smf.glm("visits ~ age", kept, family=F.Poisson()).fit()).drop(query)


def test_designs_are_read_by_column_name_and_need_their_constant(frame):
    kept = frame.dropna()
    exog = sm.add_constant(kept[["age", "weeks"]])
    study = uw.from_statsmodels(sm.OLS(kept["wage"], exog).fit())
    direct = study.drop((exog.iloc[:3], kept["wage"].iloc[:3]), which="person 7").values
    shuffled = exog[["weeks", "age", "const"]].iloc[:3]
    np.testing.assert_allclose(study.drop((shuffled, kept["wage"].iloc[:3]), which="person 7").values, direct)
    with pytest.raises(uw.errors.ShapeError, match="no column 'const'"):
        study.drop((kept[["age", "weeks"]], kept["wage"]))
    with pytest.raises(uw.errors.ShapeError, match=r"Expected \(m, 3\)"):
        study.drop((np.ones((2, 2)), np.ones(2)))


def test_dropped_rows_of_arrays_keep_their_places():
    y = D.real.copy()
    y[5] = np.nan
    study = uw.from_statsmodels(sm.OLS(y, D.X, missing="drop").fit())
    assert study.leverage().shape == (N - 1,)
    assert study.drop(measure="parameters", which=[6]).train_ids.tolist() == [6]
    with pytest.raises(uw.errors.IndexOutOfRange):
        study.drop(measure="parameters", which=[5])


def test_classes_of_a_multinomial_logit_are_the_user_s(frame):
    kept = frame.dropna()
    results = sm.MNLogit(kept["group"], sm.add_constant(kept[["age", "weeks"]])).fit(disp=0, tol=1e-12)
    study = uw.from_statsmodels(results)
    assert study.drop(measure="parameters", which=["person 7"]).query_ids.tolist()[:2] == ["const[b]", "age[b]"]
    asked = sm.add_constant(kept[["age", "weeks"]]).iloc[:4]
    changed = study.relabel({"person 7": "a"}, (asked, kept["group"].iloc[:4]), measure="probability")
    assert changed.values.shape == (4, 1)
    assert study.cross_validation().classes.tolist() == ["a", "b", "c"]
    with pytest.raises(uw.errors.LabelError, match="outcome z"):
        study.relabel({"person 7": "z"}, (asked, kept["group"].iloc[:4]))


def test_correlated_errors_are_whitened_and_whole_groups_leave_exactly():
    rng = np.random.default_rng(1)
    blocks = np.repeat(np.arange(20), 5)
    sigma = 0.6 * (blocks[:, None] == blocks) + 0.4 * np.eye(N)
    y = D.X @ np.array([0.5, 0.4, -0.3]) + rng.multivariate_normal(np.zeros(N), sigma)
    results = sm.GLS(y, D.X, sigma=sigma).fit()
    study = uw.from_statsmodels(results)
    assert "whitened" in repr(study.drop_group(blocks, measure="parameters"))
    found = study.drop_group([np.flatnonzero(blocks == 3).tolist()], measure="parameters").values[:, 0]
    keep = blocks != 3
    again = sm.GLS(y[keep], D.X[keep], sigma=sigma[np.ix_(keep, keep)]).fit()
    np.testing.assert_allclose(found, again.params - results.params, atol=1e-12)
    np.testing.assert_allclose(
        study.drop((D.X[:2], y[:2]), measure="prediction", which=[9]).values[:, 0],
        D.X[:2] @ study.drop(measure="parameters", which=[9]).values[:, 0],
        atol=1e-12,
    )


def test_autoregressive_errors_are_whitened_as_they_were_fitted():
    results = sm.GLSAR(D.real, D.X, rho=1).iterative_fit(4)
    study = uw.from_statsmodels(results)
    assert study.fitted.stationarity.ratio < 1e-9
    np.testing.assert_allclose(study.standard_errors("classical"), results.bse, rtol=1e-10)


def test_the_penalty_of_a_ridge_fit_is_read_off_or_given():
    model = sm.GLM(D.count, D.X, family=F.Poisson())
    results = model.fit_regularized(alpha=0.1, L1_wt=0.0, cnvrg_tol=1e-13, maxiter=2000)
    study = uw.from_statsmodels(results)
    np.testing.assert_allclose(study.objective.penalty.diagonal, 0.1, rtol=1e-4)
    assert study.protocol == "fixed_mean"
    given = uw.from_statsmodels(results, penalty=[0.1, 0.1, 0.1])
    np.testing.assert_allclose(
        study.drop(measure="parameters").values, given.drop(measure="parameters").values, rtol=1e-4, atol=1e-8
    )
    uneven = sm.OLS(D.real, D.X).fit_regularized(alpha=np.array([0.0, 0.1, 1.0]), L1_wt=0.0)
    with pytest.raises(uw.errors.ConfigError, match="penalty=alpha"):
        uw.from_statsmodels(uneven)
    assert uw.from_statsmodels(uneven, penalty=[0.0, 0.1, 1.0]).fitted.stationarity.ratio < 1e-9
    with pytest.raises(uw.errors.ConfigError, match="a number of zero or more"):
        uw.from_statsmodels(uneven, penalty=[1.0, 2.0])
    lasso = sm.OLS(D.real, D.X).fit_regularized(alpha=0.8, L1_wt=1.0)
    with pytest.raises(uw.errors.ModelError, match="Lasso and ElasticNet"):
        uw.from_statsmodels(lasso)


def test_quantile_regression_is_smoothed_which_is_said_and_groups_follow_real_refits():
    rng = np.random.default_rng(0)
    X = sm.add_constant(rng.standard_normal((2000, 3)))
    y = X @ np.array([0.5, 0.4, -0.3, 0.2]) + rng.standard_normal(2000)

    def fit(keep):
        return sm.QuantReg(y[keep], X[keep]).fit(q=0.5, p_tol=1e-9, max_iter=5000)

    everyone = np.arange(2000)
    results = fit(everyone)
    study = uw.from_statsmodels(results)
    assert study.fitted.stationarity.ratio < 0.02
    groups = [rng.choice(2000, 100, replace=False).tolist() for _ in range(12)]
    effects = study.drop_group(groups, measure="parameters")
    assert "smoothed over" in repr(effects)
    true = np.stack([fit(np.delete(everyone, group)).params - results.params for group in groups], 1)
    assert pearson(true, effects.values) > 0.85
    assert 0.85 < slope(true, effects.values) < 1.15
    wider = uw.from_statsmodels(results, bandwidth=2.0)
    assert wider.fitted.stationarity.ratio > study.fitted.stationarity.ratio


def test_survival_queries_are_hazards_or_times():
    results = sm.PHReg(D.time, D.X[:, 1:], status=D.failed).fit(tol=1e-10)
    study = uw.from_statsmodels(results)
    again = sm.PHReg(np.delete(D.time, 9), np.delete(D.X, 9, 0)[:, 1:], status=np.delete(D.failed, 9)).fit(tol=1e-10)
    found = study.drop(D.X[:3, 1:], measure="prediction", which=[9]).values[:, 0]
    np.testing.assert_allclose(found, D.X[:3, 1:] @ (again.params - results.params), rtol=0.05)
    outcomes = np.column_stack([D.time, D.failed])[:3]
    assert np.isfinite(study.drop((D.X[:3, 1:], outcomes)).values).all()
    with pytest.raises(uw.errors.ShapeError, match="time, status"):
        study.drop((D.X[:3, 1:], D.time[:3]))
    with pytest.raises(uw.errors.LabelError, match="event times"):
        study.relabel({0: 2.0}, measure="parameters")
    efron = sm.PHReg(D.rounded, D.X[:, 1:], status=D.failed, ties="efron").fit()
    with pytest.raises(uw.errors.ModelError, match="ties='breslow'"):
        uw.from_statsmodels(efron)


def test_instrumental_variables_are_a_saddle_point_and_need_instruments_for_new_rows():
    results = IV2SLS(D.real, D.X, D.instrument).fit()
    study = uw.from_statsmodels(results)
    assert "dense LU" in repr(study.drop(measure="parameters"))
    assert np.isfinite(study.trust().pending_shift) and np.isnan(study.trust().lowest_curvature)
    group = [3, 30, 60]
    keep = np.delete(EVERYONE, group)
    again = IV2SLS(D.real[keep], D.X[keep], D.instrument[keep]).fit()
    moved = study.drop_group([group], measure="parameters").values[-3:, 0]
    np.testing.assert_allclose(moved, again.params - results.params, atol=1e-10)
    predicted = study.drop_group([group], (D.X[:2], D.real[:2]), measure="prediction").values[:, 0]
    np.testing.assert_allclose(predicted, D.X[:2] @ moved, atol=1e-10)
    check = study.check((D.X[:4], D.real[:4]), refits=6)
    assert check.relative_error < 1e-8
    with pytest.raises(uw.errors.ConfigError, match="instruments"):
        study.add((D.X[:2], D.real[:2]), (D.X[:2], D.real[:2]))
    with pytest.raises(uw.errors.ConfigError, match="not positive"):
        uw.from_statsmodels(results, solver="block_cg").upweight((D.X[:2], D.real[:2]))
    step = study.newton_step(which=[3], epsilon=-1 / N)
    np.testing.assert_allclose(
        step.step[0, -3:], study.drop(measure="parameters", which=[3]).values[-3:, 0], atol=1e-10
    )


UNSUPPORTED = {
    "GEE": (lambda: sm.GEE(D.real, D.X, groups=D.stratum).fit(), "cov_type='cluster'"),
    "MixedLM": (lambda: sm.MixedLM(D.real, D.X, groups=np.repeat(np.arange(20), 5)).fit(), "OLS"),
    "GeneralizedPoisson": (lambda: sm.GeneralizedPoisson(D.count, D.X).fit(disp=0), "NegativeBinomial"),
    "AutoReg": (lambda: sm.tsa.AutoReg(D.real, 1).fit(), "OLS on the lags"),
    "L1 Logit": (lambda: sm.Logit(D.binary, D.X).fit_regularized(disp=0, alpha=0.1), "fit()"),
    "fit_constrained": (lambda: sm.GLM(D.count, D.X, family=F.Poisson()).fit_constrained("x1 = 0.3"), "offset"),
    "a link by scipy": (
        lambda: sm.GLM(D.binary, D.X, family=F.Binomial(L.CDFLink(stats.t(5)))).fit(),
        "Probit",
    ),
    "TrimmedMean's cousin": (lambda: sm.RLM(D.real, D.X, M=sm.robust.norms.StudentT()).fit(), "HuberT"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_names_what_is_nearest(name):
    fit, nearest = UNSUPPORTED[name]
    with pytest.raises(uw.errors.ModelError, match="not supported") as caught:
        uw.from_statsmodels(fit())
    assert nearest in str(caught.value)


def test_what_is_no_result_is_refused():
    with pytest.raises(uw.errors.ModelError, match="results of a statsmodels fit"):
        uw.from_statsmodels(sm.OLS(D.real, D.X))
    results = sm.OLS(D.real, D.X).fit()
    results._results.params = results._results.params * np.nan
    with pytest.raises(uw.errors.NonFiniteInput, match="fit again"):
        uw.from_statsmodels(results)
    twice = pd.DataFrame(D.X, index=["same"] * N)
    with pytest.raises(uw.errors.InputError, match="ids="):
        uw.from_statsmodels(sm.OLS(D.real, twice).fit())
    assert (
        uw.from_statsmodels(sm.OLS(D.real, twice).fit(), ids=range(N)).drop(measure="parameters").values.shape[1] == N
    )


def test_queries_of_an_unknown_form_are_refused():
    study = uw.from_statsmodels(sm.OLS(D.real, D.X).fit())
    with pytest.raises(uw.errors.ConfigError, match="'exog'"):
        study.drop({"X": D.X})
    with pytest.raises(uw.errors.ShapeError, match="one outcome a row"):
        study.drop((D.X[:3], D.real[:2]))


def test_measures_of_a_mean_and_of_probabilities_that_are_no_logits():
    results = sm.GLM(D.binary, D.X, family=F.Binomial(L.CLogLog())).fit(tol=1e-13)
    study = uw.from_statsmodels(results)
    again = sm.GLM(np.delete(D.binary, 9), np.delete(D.X, 9, 0), family=F.Binomial(L.CLogLog())).fit(tol=1e-13)
    query = (D.X[:30], D.binary[:30])
    before, after = results.predict(D.X[:30]), again.predict(D.X[:30])
    own = [np.where(D.binary[:30] > 0, p, 1 - p) for p in (before, after)]
    for measure, true in (
        ("mean", after - before),
        ("probability", own[1] - own[0]),
        ("margin", np.log(own[1] / (1 - own[1])) - np.log(own[0] / (1 - own[0]))),
    ):
        found = study.drop(query, measure=measure, which=[9]).values[:, 0]
        assert slope(true, found) == pytest.approx(1, abs=0.1) and pearson(true, found) > 0.99
    right = (before > 0.5) == (D.binary[:30] > 0)
    measured = Question(study.fitted, query, "accuracy").measured
    assert float(measured.at_outputs(measured.outputs)) == pytest.approx(right.mean())
    assert study.drop(query, measure="auc").values.shape == (1, N)
    with pytest.raises(uw.errors.ConfigError, match="no likelihood"):
        uw.from_statsmodels(sm.RLM(D.real, D.X).fit()).drop((D.X[:2], D.real[:2]), measure="mean")


@pytest.mark.parametrize(
    "norm", ["LeastSquares", "HuberT", "RamsayE", "AndrewWave", "TrimmedMean", "Hampel", "TukeyBiweight"]
)
def test_robust_norms_and_their_slopes_are_statsmodels_own(norm):
    theirs = getattr(sm.robust.norms, norm)()
    z = np.linspace(-9.05, 9.1, 400)
    loss = RobustNorm(norm, tuple(float(getattr(theirs, c)) for c in NORMS[norm][1]), 2.0)
    outputs, targets = torch.zeros(400, 1, dtype=torch.float64), torch.as_tensor(2 * z)[:, None]
    np.testing.assert_allclose(loss.term(outputs, targets)[:, 0], 4 * theirs.rho(z), atol=1e-12)
    np.testing.assert_allclose(loss.slope(outputs, targets)[:, 0], -2 * theirs.psi(z), atol=1e-12)
    np.testing.assert_allclose(loss.curve(outputs, targets)[:, 0], theirs.psi_deriv(z), atol=1e-12)
