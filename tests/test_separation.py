"""Classes that a fit tells apart completely: the likelihood has no finite maximum, and that is said."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm

import upweight as uw

SEPARABLE = sm.add_constant(np.r_[np.linspace(-3, -1, 20), np.linspace(1, 3, 20)])
SIDES = np.repeat([0.0, 1.0], 20)


@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.PerfectSeparationWarning")
@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "fit",
    [
        lambda y: sm.Logit(y, SEPARABLE).fit(disp=0, maxiter=12),
        lambda y: sm.Probit(y, SEPARABLE).fit(disp=0, maxiter=8),
        lambda y: sm.MNLogit(y, SEPARABLE).fit(disp=0, maxiter=12),
        lambda y: sm.GLM(y, SEPARABLE, family=sm.families.Binomial()).fit(maxiter=12),
    ],
    ids=["Logit", "Probit", "MNLogit", "GLM"],
)
def test_a_fit_that_separates_its_classes_is_said_to_have_no_maximum(fit):
    with pytest.warns(uw.errors.SeparationWarning, match="classes are separated, the likelihood has no finite maximum"):
        uw.from_statsmodels(fit(SIDES))
    mixed = SIDES.copy()
    mixed[[3, 30]] = 1 - mixed[[3, 30]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", uw.errors.SeparationWarning)
        uw.from_statsmodels(fit(mixed))


@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.PerfectSeparationWarning")
def test_a_penalty_gives_separated_classes_a_maximum():
    fit = sm.GLM(SIDES, SEPARABLE, family=sm.families.Binomial()).fit_regularized(
        L1_wt=0, alpha=0.1, cnvrg_tol=1e-13, maxiter=500
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", uw.errors.SeparationWarning)
        uw.from_statsmodels(fit, penalty=0.1)
