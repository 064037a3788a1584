"""Published influence tables: R's influence.measures and lsdiag, and SAS's diagnostics of Finney's data, as statsmodels ships them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.stats.tests as theirs
from statsmodels.datasets import macrodata

import upweight as uw

RESULTS = Path(theirs.__file__).parent / "results"


@pytest.fixture(scope="module")
def investment():
    """Growth of real investment on growth of output and the interest rate, the regression R's tables are of."""
    data = macrodata.load_pandas().data
    growth = {name: 400 * np.diff(np.log(data[name])) for name in ("realinv", "realgdp")}
    X = sm.add_constant(np.column_stack([growth["realgdp"], data["realint"][:-1]]))
    return X, growth["realinv"], uw.from_statsmodels(sm.OLS(growth["realinv"], X).fit())


def deletions(X, y, study):
    """What the tables are made of: moves of the coefficients, leverages, residuals and s without each point."""
    moved, hat = study.drop(measure="parameters").values.T, study.leverage()
    held_out = study.cross_validation()
    outside = y - held_out.outputs[:, 0]  # residual without the point
    inside = outside * (1 - hat)
    n, p = X.shape
    without = (np.sum(inside**2) - inside * outside) / (n - p - 1)
    return moved, hat, inside, outside, without


def test_r_s_influence_measures_are_reproduced(investment):
    X, y, study = investment
    table = pd.read_csv(RESULTS / "influence_measures_R.csv", index_col=0)
    moved, hat, inside, outside, without = deletions(X, y, study)
    n, p = X.shape
    unscaled, s2 = np.linalg.inv(X.T @ X), np.sum(inside**2) / (n - p)
    standardised = -moved / np.sqrt(without[:, None] * np.diag(unscaled))
    np.testing.assert_allclose(standardised, table.iloc[:, :3], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((outside - inside) / np.sqrt(without * hat), table["dffit"], rtol=1e-9)
    np.testing.assert_allclose((without / s2) ** p / (1 - hat), table["cov.r"], rtol=1e-9)
    cook = np.einsum("np,pq,nq->n", moved, X.T @ X, moved) / (p * s2)
    np.testing.assert_allclose(cook, table["cook.d"], rtol=1e-9)
    np.testing.assert_allclose(hat, table["hat"], rtol=1e-9)


def test_r_s_lsdiag_is_reproduced(investment):
    X, y, study = investment
    reference = json.loads((RESULTS / "influence_lsdiag_R.json").read_text("utf-8"))
    _, hat, inside, _, without = deletions(X, y, study)
    np.testing.assert_allclose(hat, reference["hat"], rtol=1e-9)
    np.testing.assert_allclose(inside / np.sqrt(without * (1 - hat)), reference["stud.res"], rtol=1e-9)
    scaled = np.asarray(reference["cov.scaled"]).reshape(3, 3)
    np.testing.assert_allclose(study.covariance("classical"), scaled, rtol=1e-9)


def test_sas_s_diagnostics_of_finney_s_data_are_reproduced():
    data = pd.read_csv(RESULTS / "binary_constrict.csv", index_col=0)
    table = pd.read_csv(RESULTS / "results_influence_logit.csv", index_col=0)
    X = data[["const", "log_rate", "log_volumne"]]
    results = sm.GLM(data["constrict"], X, family=sm.families.Binomial()).fit(tol=1e-12)
    study = uw.from_statsmodels(results)
    moved = study.drop(measure="parameters").values.T  # one Newton step, which is what SAS prints
    np.testing.assert_allclose(-moved / results.bse.to_numpy(), table.iloc[:, 5:8], atol=1e-4)
    np.testing.assert_allclose(study.leverage(), table["hat_matrix_diagonal"], atol=6e-5)
    information = np.linalg.inv(study.covariance("classical").to_numpy())
    np.testing.assert_allclose(np.einsum("np,pq,nq->n", moved, information, moved), table["Cooks C"], atol=6e-5)


def test_score_residuals_of_a_cox_model_are_its_first_order_rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 3))
    time, status = rng.exponential(np.exp(-0.4 * X[:, 0])), rng.uniform(size=120) < 0.7
    results = sm.PHReg(time, X, status=status.astype(int)).fit(tol=1e-12)
    found = uw.from_statsmodels(results).drop(measure="parameters", order="first").values[:3]
    scores = np.nan_to_num(results.score_residuals)  # statsmodels has none of who left before the first event
    dfbeta = scores @ np.linalg.inv(results.model.hessian(results.params))
    np.testing.assert_allclose(found.T, dfbeta, rtol=1e-7, atol=1e-10)
