"""The fewest points a claim rests on: masked clusters, three published trials, any measure, and what cannot be asked."""

from pathlib import Path

import causaldata
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from statsmodels.sandbox.regression.gmm import IV2SLS

import upweight as uw
from cases import classification, fitted_mlp, pearson, regression, slope
from upweight.inference.remaining import without
from upweight.inference.scale import scale_of
from upweight.inference.worst_case.claims import IntervalEnd, estimate_of

LALONDE = "re78 ~ treat + age + educ + black + hisp + marr + nodegree + re74 + re75"


def masked(seed: int = 0):
    """200 points on a rising line and six far away, together, that turn it: none of the six matters alone."""
    rng = np.random.default_rng(seed)
    x, far = rng.standard_normal(200), 20 + 0.05 * rng.standard_normal(6)
    y = np.concatenate([0.5 * x + rng.standard_normal(200), -10 + 0.05 * rng.standard_normal(6)])
    names = [f"clean {place}" for place in range(200)] + [f"far {place}" for place in range(6)]
    return pd.DataFrame({"x": np.concatenate([x, far]), "y": y}, index=names)


@pytest.mark.parametrize("seed", range(4))
def test_a_masked_cluster_is_found_by_the_greedy_search_and_not_by_adding_up(seed):
    frame = masked(seed)
    found = uw.from_statsmodels(smf.ols("y ~ x", frame).fit()).worst_case("sign", of="x")
    assert not found.additive.falls and len(found.additive.ids) == 0
    assert set(found.ids) == {f"far {place}" for place in range(6)}
    assert found.flips and found.order == "newton" and found.before < 0 < found.after
    clean = smf.ols("y ~ x", frame.iloc[:200]).fit()
    assert float(found.after) == pytest.approx(clean.params["x"], rel=1e-9)
    assert found.after.standard_error == pytest.approx(clean.bse["x"], rel=1e-9)
    assert found.after.p_value == pytest.approx(clean.pvalues["x"], rel=1e-6)
    assert "hide behind each other" in found.verdict and "would change its sign" in found.verdict


def confirmed(found, formula, frame, of, **how):
    """A refit by statsmodels itself, without the points that were found."""
    again = smf.ols(formula, frame.drop(index=list(found.ids))).fit(**how)
    assert float(found.after) == pytest.approx(again.params[of], rel=1e-8)
    assert found.after.standard_error == pytest.approx(again.bse[of], rel=1e-8)
    low, high = again.conf_int().loc[of]
    assert (found.after.low, found.after.high) == pytest.approx((low, high), rel=1e-6)
    return again


@pytest.mark.parametrize(
    ("kind", "sign", "significance", "both"),
    [("nonrobust", 15, 3, 33), ("HC1", 15, 3, 31), ("HC3", 15, 3, 31)],
)
def test_lalonde_s_training_effect_rests_on_few_men(kind, sign, significance, both):
    frame = causaldata.nsw_mixtape.load_pandas().data
    how = {"cov_type": kind, "use_t": True}
    study = uw.from_statsmodels(smf.ols(LALONDE, frame).fit(**how))
    for claim, expected in (("sign", sign), ("significance", significance), ("both", both)):
        found = study.worst_case(claim, of="treat")
        again = confirmed(found, LALONDE, frame, "treat", **how)
        assert len(found.ids) == expected <= (len(found.additive.ids) or 99)
        if claim == "sign":
            assert again.params["treat"] < 0 < found.before
        elif claim == "significance":
            assert again.pvalues["treat"] > 0.05 > found.before.p_value
        else:
            assert again.conf_int().loc["treat", 1] < 0


def test_thornton_s_incentive_stands_where_its_covariates_fall():
    frame = causaldata.thornton_hiv.load_pandas().data.dropna(subset=["got", "any", "tinc", "distvct", "age"])
    formula = "got ~ any + tinc + distvct + age"
    study = uw.from_statsmodels(smf.ols(formula, frame).fit(cov_type="HC1"))
    strong = study.worst_case("sign", of="any", most=30)
    assert not strong.flips and strong.ids.size == 0 and strong.after == strong.before
    assert "No set of up to 30 points" in strong.verdict
    weak = study.worst_case("significance", of="age")
    confirmed(weak, formula, frame, "age", cov_type="HC1")
    assert 5 < len(weak.ids) <= len(weak.additive.ids) < 60 and weak.additive.falls


EXPERIMENTS = {
    "LaLonde": (lambda: causaldata.nsw_mixtape.load_pandas().data, LALONDE),
    "Thornton": (lambda: causaldata.thornton_hiv.load_pandas().data, "got ~ any"),
    "RAND": (
        lambda: sm.datasets.randhie.load_pandas().data,
        "mdvis ~ lncoins + idp + lpi + fmde + physlm + disea + hlthg + hlthf + hlthp",
    ),
}
PAGE = Path(__file__).resolve().parent.parent / "docs" / "statistics.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text("utf-8").splitlines()
    if line.startswith(tuple(f"| {name} |" for name in EXPERIMENTS))
]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_the_table_of_the_page_on_statistics_is_what_is_found(row):
    name, term, errors, claim, points, added, followed = row
    load, formula = EXPERIMENTS[name]
    how = {"cov_type": {"classical": "nonrobust"}.get(errors, errors)} | ({"use_t": True} if name == "LaLonde" else {})
    study = uw.from_statsmodels(smf.ols(formula, load()).fit(**how))
    found = study.worst_case(claim, of=term, most=1000 if name == "RAND" else 0.2)
    assert f"{found.count:,}" == points
    for search, count in ((found.additive, added), (found.greedy, followed)):
        assert (str(len(search.ids)) if search.falls else "none") == count


@pytest.mark.slow
def test_thornton_s_incentive_falls_with_an_eighth_of_the_sample():
    frame = causaldata.thornton_hiv.load_pandas().data.dropna(subset=["got", "any"])
    found = uw.from_statsmodels(smf.ols("got ~ any", frame).fit(cov_type="HC1")).worst_case("sign", of="any", most=0.2)
    confirmed(found, "got ~ any", frame, "any", cov_type="HC1")
    assert not found.additive.falls and 340 <= len(found.ids) <= 370


def test_the_rand_experiment_s_deductible_stands_without_its_most_influential_people():
    frame = sm.datasets.randhie.load_pandas().data
    formula = "mdvis ~ " + " + ".join(frame.columns.drop("mdvis"))
    results = smf.ols(formula, frame).fit(cov_type="HC1")
    found = uw.from_statsmodels(results).worst_case("sign", of="idp", most=10)
    assert not found.flips and len(found.greedy.ids) == 10
    again = smf.ols(formula, frame.drop(index=list(found.greedy.ids))).fit(cov_type="HC1")
    assert found.greedy.path[-1] == pytest.approx(again.params["idp"], rel=1e-8)
    health = uw.from_statsmodels(results).worst_case("significance", of="hlthp", most=60)
    confirmed(health, formula, frame, "hlthp", cov_type="HC1")
    assert health.flips


@pytest.mark.slow
def test_the_rand_experiment_s_coinsurance_needs_hundreds_of_people():
    frame = sm.datasets.randhie.load_pandas().data
    formula = "mdvis ~ " + " + ".join(frame.columns.drop("mdvis"))
    found = uw.from_statsmodels(smf.ols(formula, frame).fit(cov_type="HC1")).worst_case("sign", of="lpi", most=1000)
    confirmed(found, formula, frame, "lpi", cov_type="HC1")
    assert 200 < len(found.ids) < 1000


def test_the_predicted_path_of_the_greedy_search_is_each_refit():
    frame = causaldata.nsw_mixtape.load_pandas().data
    found = uw.from_statsmodels(smf.ols(LALONDE, frame).fit()).worst_case("sign", of="treat").greedy
    for size in (1, 7, len(found.ids)):
        again = smf.ols(LALONDE, frame.drop(index=list(found.ids[:size]))).fit()
        assert found.path[size] == pytest.approx(again.params["treat"], rel=1e-8)


def test_the_first_point_is_the_best_of_all_real_deletions():
    frame = causaldata.nsw_mixtape.load_pandas().data
    results = smf.ols(LALONDE, frame).fit()
    influence = results.get_influence()
    found = uw.from_statsmodels(results).worst_case("sign", of="treat", most=1).greedy
    place = results.params.index.get_loc("treat")
    assert found.ids[0] == frame.index[np.argmax(influence.dfbeta[:, place])]


@pytest.mark.parametrize("kind", ["classical", "hc1", "hc3", "cluster"])
def test_the_end_of_an_interval_falls_to_first_order_as_its_refits_do(kind):
    rng = np.random.default_rng(2)
    X = sm.add_constant(rng.standard_normal((400, 3)))
    y = X @ np.array([0.2, 0.3, 0.1, 0.0]) + rng.standard_normal(400) * (1 + 0.5 * X[:, 1] ** 2)
    fitted = uw.from_statsmodels(sm.OLS(y, X).fit()).fitted
    scale = scale_of(fitted, kind, np.arange(400) % 40 if kind == "cluster" else None)
    end = IntervalEnd(1, "x1", scale, 0.05, -1.0, "fall")
    predicted = end.first_order(fitted).numpy()
    which = range(0, 400, 16)
    true = np.array([end.value(without(fitted, np.array([place]))) for place in which]) - end.value(fitted)
    assert slope(true, predicted[list(which)]) == pytest.approx(1, abs=0.2 if kind == "cluster" else 0.1)
    assert pearson(true, predicted[list(which)]) > 0.99


def test_results_that_are_not_significant_can_become_so():
    rng = np.random.default_rng(4)
    X = sm.add_constant(rng.standard_normal((120, 2)))
    y = X @ np.array([0.0, 0.12, 0.0]) + rng.standard_normal(120)
    found = uw.from_statsmodels(sm.OLS(y, X).fit()).worst_case("significance", of="x1")
    assert found.before.p_value > 0.05 > found.after.p_value
    assert "make it significant" in found.verdict


def test_a_logit_is_searched_by_newton_steps_and_refitted_by_statsmodels():
    rng = np.random.default_rng(0)
    X = sm.add_constant(rng.standard_normal((150, 2)))
    y = (rng.uniform(size=150) < 1 / (1 + np.exp(-X @ np.array([0.2, 0.5, 0.0])))).astype(float)
    for claim in ("sign", "significance"):
        found = uw.from_statsmodels(sm.Logit(y, X).fit(disp=0, tol=1e-12)).worst_case(claim, of="x1")
        again = sm.Logit(np.delete(y, found.ids), np.delete(X, found.ids, 0)).fit(disp=0, tol=1e-12)
        assert float(found.after) == pytest.approx(again.params[1], rel=1e-7)
        assert found.after.standard_error == pytest.approx(again.bse[1], rel=1e-6)
        assert (again.params[1] < 0) if claim == "sign" else (again.pvalues[1] > 0.05)


def test_a_cox_model_and_instruments_are_searched_too():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 2))
    time = np.ceil(8 * rng.exponential(np.exp(-0.1 * X[:, 0]))) / 8
    found = uw.from_statsmodels(sm.PHReg(time, X).fit(tol=1e-10)).worst_case("sign", of="x1", most=20)
    again = sm.PHReg(np.delete(time, found.ids), np.delete(X, found.ids, 0)).fit(tol=1e-10)
    assert float(found.after) == pytest.approx(again.params[0], rel=1e-6) and found.after < 0 < found.before
    Z = np.column_stack([X + 0.5 * rng.standard_normal((80, 2)), np.ones(80)])
    design = np.column_stack([X, np.ones(80)])
    y = 0.15 * X[:, 0] + rng.standard_normal(80)
    ratio = uw.from_statsmodels(IV2SLS(y, design, Z).fit()).worst_case("sign", of="x1", most=20)
    keep = np.delete(np.arange(80), ratio.ids)
    assert float(ratio.after) == pytest.approx(IV2SLS(y[keep], design[keep], Z[keep]).fit().params[0], rel=1e-8)


def test_any_measure_can_be_a_claim():
    data = classification(n=150, m=60)
    model = LogisticRegression(tol=1e-10, max_iter=5000).fit(data.X, data.y)
    study = uw.from_sklearn(model, data.X, data.y)

    def refitted(ids):
        return LogisticRegression(tol=1e-10, max_iter=5000).fit(np.delete(data.X, ids, 0), np.delete(data.y, ids))

    closest = int(np.argmin(np.abs(model.decision_function(data.Xt))))
    one = (data.Xt[[closest]], data.yt[[closest]])
    margin = study.worst_case("margin", query=one)
    assert (
        margin.flips
        and np.sign(refitted(margin.ids).decision_function(one[0]))[0] != np.sign(model.decision_function(one[0]))[0]
    )
    before = roc_auc_score(data.yt, model.decision_function(data.Xt))
    area = study.worst_case("auc", query=data.query, to=before - 0.004)
    after = roc_auc_score(data.yt, refitted(area.ids).decision_function(data.Xt))
    assert float(area.before) == pytest.approx(before) and float(area.after) == pytest.approx(after)
    assert area.flips and after < before - 0.004
    sides = torch.as_tensor(data.Xt[:, 0] > 0)

    def gap(outputs, targets):
        p = torch.sigmoid(outputs)
        return p[sides].mean() - p[~sides].mean()

    fair = study.worst_case(gap, query=data.query, aggregate="set", most=40)
    p = refitted(fair.ids).predict_proba(data.Xt)[:, 1]
    found = p[sides.numpy()].mean() - p[~sides.numpy()].mean()
    assert float(fair.after) == pytest.approx(found, abs=1e-6) and fair.of == "the gap"


def test_the_penalty_of_what_remains_follows_the_protocol():
    data = regression(n=60)
    study = uw.from_sklearn(Ridge(alpha=5.0).fit(data.X, data.y), data.X, data.y)
    left = without(study.fitted, np.array([3, 9]))
    again = Ridge(alpha=5.0).fit(np.delete(data.X, [3, 9], 0), np.delete(data.y, [3, 9]))
    np.testing.assert_allclose(left.objective.theta[:4], again.coef_, rtol=1e-9)
    mean = uw.from_statsmodels(sm.OLS(data.y, data.X).fit_regularized(alpha=0.2, L1_wt=0))
    twice = without(without(mean.fitted, np.array([3])), np.array([3, 9]))
    refitted = sm.OLS(np.delete(data.y, [3, 9]), np.delete(data.X, [3, 9], 0)).fit_regularized(alpha=0.2, L1_wt=0)
    np.testing.assert_allclose(twice.objective.theta, refitted.params, rtol=1e-9)


def test_a_float32_model_is_searched_like_its_float64_twin():
    data = regression(n=60)
    theta = np.linalg.lstsq(data.X, data.y, rcond=None)[0]
    found = []
    for dtype in (torch.float32, torch.float64):
        line = torch.nn.Linear(4, 1, bias=False, dtype=dtype).eval()
        line.weight.data = torch.as_tensor(theta[None]).to(dtype)
        single = (torch.as_tensor(data.X).to(dtype), torch.as_tensor(data.y[:, None]).to(dtype))
        study = uw.Study(line, single, loss="squared_error")
        found += [study.worst_case("significance", of="weight[0,1]", most=40, kind=k) for k in ("classical", "hc3")]
    for single, double in zip(found[:2], found[2:], strict=True):
        assert single.ids.tolist() == double.ids.tolist()
        assert float(single.after) == pytest.approx(float(double.after), rel=1e-4)


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
def test_a_model_too_large_to_refit_is_refused():
    data = regression(n=30)
    line = torch.nn.Linear(4, 1, dtype=torch.float64).eval()
    study = uw.Study(line, (data.X, data.y[:, None]), loss="squared_error", memory=100, penalty=uw.L2(1.0))
    with pytest.raises(uw.errors.BudgetError, match="refits by Newton's method"):
        study.worst_case("sign", of="weight[0,1]")


def test_a_network_s_prediction_can_be_a_claim():
    _, problem, net = fitted_mlp()
    found = net.worst_case("margin", query=(problem.Xt[:1], problem.yt[:1]), most=3)
    left = without(net.fitted, net.fitted.positions(found.greedy.ids.tolist()))
    assert left.stationarity.ratio < 1e-6 and len(found.greedy.path) == len(found.greedy.ids) + 1


def test_a_point_that_alone_determines_a_parameter_is_never_chosen():
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(40), rng.standard_normal(40), np.arange(40) == 5]).astype(float)
    y = 0.1 * X[:, 1] + rng.standard_normal(40)
    found = uw.from_statsmodels(sm.OLS(y, X).fit()).worst_case("sign", of="x1", most=15)
    assert 5 not in found.greedy.ids
    alone = uw.from_statsmodels(sm.OLS(y, X).fit()).worst_case("sign", of="x2", most=10)
    assert 5 not in alone.greedy.ids


def test_a_worst_case_is_a_table_a_plot_and_a_paragraph():
    import matplotlib

    matplotlib.use("Agg")
    found = uw.from_statsmodels(smf.ols("y ~ x", masked()).fit(cov_type="HC3")).worst_case("sign", of="x")
    table = found.to_pandas()
    assert table.index.tolist() == ["additive", "greedy"] and table["falls"].tolist() == [False, True]
    assert table.loc["greedy", "points"] == 6 and table.loc["greedy", "share"] == pytest.approx(6 / 206)
    axes = found.plot()
    assert len(axes.lines) == 3 and axes.get_xlabel() == "points left out"
    assert list(axes.lines[1].get_ydata()) == list(found.greedy.path)
    assert "robust (HC3)" in repr(found) and "far" in repr(found)


@pytest.mark.parametrize(
    ("claim", "how", "words"),
    [
        ("sign", {}, "no of="),
        ("sign", {"of": "treet"}, "Did you mean 'treat'"),
        ("sign", {"of": "treat", "query": 1}, "found query="),
        ("significance", {"of": "treat", "level": 2}, "level=2"),
        ("sign", {"of": "treat", "most": 0}, "most=0"),
        ("sign", {"of": "treat", "most": 445}, "most=445"),
        ("sign", {"of": "treat", "most": 2.5}, "most=2.5"),
        ("prediction", {}, "no query="),
        ("prediction", {"of": "treat"}, "of="),
        ("parameters", {"query": 1}, "measure='parameters'"),
    ],
)
def test_what_cannot_be_asked_is_said(claim, how, words):
    frame = causaldata.nsw_mixtape.load_pandas().data
    study = uw.from_statsmodels(smf.ols(LALONDE, frame).fit())
    with pytest.raises(uw.errors.ConfigError, match=words):
        study.worst_case(claim, **how)
    with pytest.raises(uw.errors.ConfigError, match="3 numbers"):
        study.worst_case("prediction", query=frame.iloc[:3])
    with pytest.raises(uw.errors.ConfigError, match="on no side"):
        study.worst_case(
            "prediction", query=frame.iloc[:1], to=float(smf.ols(LALONDE, frame).fit().predict(frame.iloc[:1]).iloc[0])
        )


def test_estimates_are_floats_that_know_their_error():
    fitted = uw.from_statsmodels(smf.ols("y ~ x", masked()).fit()).fitted
    found = estimate_of(fitted, 1, scale_of(fitted, "classical"), 0.05)
    assert isinstance(found, float) and found < 0 and "standard error" in str(found)
