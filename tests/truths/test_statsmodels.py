"""What statsmodels covers, we agree with: OLS dfbeta, Cook and hat values; Logit and GLM deletion diagnostics."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression

import upweight as uw


@pytest.fixture(scope="module")
def spector():
    data = sm.datasets.spector.load_pandas()
    return data.exog.to_numpy(float), data.endog.to_numpy(float)


def test_least_squares_dfbeta_cook_and_hat_values_agree():
    data = sm.datasets.stackloss.load_pandas()
    X, y = data.exog.to_numpy(float), data.endog.to_numpy(float)
    study = uw.from_sklearn(LinearRegression().fit(X, y), X, y)
    reference = sm.OLS(y, sm.add_constant(X)).fit().get_influence()
    moved = study.drop(measure="parameters").values
    order = [3, 0, 1, 2]
    np.testing.assert_allclose(-moved[order].T, reference.dfbeta, rtol=1e-8)
    np.testing.assert_allclose(study.leverage(), reference.hat_matrix_diag, rtol=1e-9)
    design = sm.add_constant(X)[:, [1, 2, 3, 0]]
    cook = np.einsum("pi,pq,qi->i", moved, design.T @ design, moved) / (4 * reference.results.mse_resid)
    np.testing.assert_allclose(cook, reference.cooks_distance[0], rtol=1e-8)


def test_logit_deletion_diagnostics_agree(spector):
    X, y = spector
    fitted = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10000, solver="newton-cholesky").fit(X, y)
    moved = uw.from_sklearn(fitted, X, y).drop(measure="parameters").values
    reference = sm.Logit(y, sm.add_constant(X)).fit(disp=0, tol=1e-12).get_influence()
    np.testing.assert_allclose(-moved[[3, 0, 1, 2]].T, reference.d_params, rtol=2e-4, atol=1e-5)


def test_binomial_and_poisson_glm_deletion_diagnostics_agree(spector):
    X, y = spector
    counts = np.random.default_rng(0).poisson(np.exp(0.3 * X[:, 0]))
    for loss, family, target in (
        ("binary_cross_entropy", sm.families.Binomial(), y),
        ("poisson", sm.families.Poisson(), counts.astype(float)),
    ):
        results = sm.GLM(target, sm.add_constant(X), family=family).fit(tol=1e-14)
        model = torch.nn.Linear(4, 1, bias=False, dtype=torch.float64).eval()
        model.weight.data = torch.as_tensor(results.params)[None]
        study = uw.Study(model, (sm.add_constant(X), target[:, None]), loss=loss)
        reference = results.get_influence()
        np.testing.assert_allclose(study.leverage(), reference.hat_matrix_diag, rtol=1e-6)
        np.testing.assert_allclose(-study.drop(measure="parameters").values.T, reference.d_params, rtol=1e-6, atol=1e-9)
