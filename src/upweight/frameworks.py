"""Studies of what other libraries fitted: one function a library."""

from __future__ import annotations

from typing import Any, Unpack

from upweight.adapters.sklearn import adapt_sklearn
from upweight.adapters.sklearn.recipe import SMOOTHING
from upweight.adapters.statsmodels.rules import Additions, adapt_statsmodels
from upweight.fitted import Settings, SolverSettings, StudySettings, read_settings, spelled_out
from upweight.study import Study


@spelled_out(StudySettings, Settings)
def from_sklearn(
    fitted: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    ids: Any = None,
    smoothing: float = SMOOTHING,
    **settings: Unpack[StudySettings],
) -> Study:
    """A study of a fitted scikit-learn estimator, or of a Pipeline that ends in one.

    LinearRegression, Ridge, RidgeClassifier, LogisticRegression; Poisson-, Gamma- and TweedieRegressor; Lasso and ElasticNet
    (on the coefficients that are not zero); HuberRegressor; LinearSVC, LinearSVR, SVC and SVR of a linear kernel, SGDClassifier
    and SGDRegressor (corners of hinges smoothed); MLPClassifier and MLPRegressor; KernelRidge and Gaussian processes (in the
    eigenvectors of the kernel); their CV forms, and searches, calibration and transformed targets around them. Several
    outcomes where the estimator takes them.

    Args:
        fitted: the fitted estimator.
        X, y: what it was fitted on, transformed by nothing; sparse X is read a batch at a time.
        sample_weight: as given to fit.
        ids: a name for every training point; the pandas index or the position by default.
        smoothing: the temperature over which the corner of a hinge or ε-insensitive loss is smoothed [KL17 4.2].
        settings: protocol, curvature, solver, damping, memory, fisher, factor_share, products, seed, strict: as for ``uw.Study``.

    Returns:
        A Study of the objective the estimator minimised, on the scale Σwᵢ = 1; queries, labels and parameters have
        the user's names. Refitting keeps the total penalty where that is what C or alpha means ('fixed_total'), else
        the penalty beside the mean loss ('fixed_mean').

    Raises:
        ModelError: the estimator is unfitted or not supported.
        InputError: X has other columns than the fit, or y an unknown class.
        ConfigError: an unknown setting.
        MissingExtraError: scikit-learn is not installed.
    """
    return Study.of(
        adapt_sklearn(fitted, (X, y), sample_weight, ids, smoothing),
        read_settings(settings, StudySettings, from_sklearn),
    )


@spelled_out(SolverSettings, Settings)
def from_statsmodels(
    results: Any,
    *,
    penalty: Any = None,
    bandwidth: float | None = None,
    ids: Any = None,
    **settings: Unpack[SolverSettings],
) -> Study:
    """A study of fitted statsmodels results.

    OLS, WLS, GLS, GLSAR; GLM of every family and link; Logit, Probit, MNLogit, Poisson, NegativeBinomial; RLM at its
    scale; QuantReg smoothed; PHReg (Breslow's ties); IV2SLS; ridge by ``fit_regularized(L1_wt=0)``. Offsets, exposure,
    weights, formulas and dropped rows are read off the results.

    Args:
        results: what ``Model(...).fit()`` returned.
        penalty: alpha of ``fit_regularized``, which the results do not keep; read off the gradient if it is one number.
        bandwidth: over which QuantReg's corner is smoothed, in target units; a tenth of statsmodels' own by default.
        ids: a name for every row that was fitted; those of the user's frame by default.
        settings: protocol, solver, damping, memory: as for ``uw.Study``.

    Returns:
        A Study whose parameters and points have the user's names. Queries are a frame with the formula's variables,
        (exog, endog), or {'exog': …, 'endog': …, 'offset': …} for models with an offset or exposure. Its
        ``worst_case`` takes standard errors of the kind the results were fitted with.

    Raises:
        ModelError: a model, or a way to fit it, that is not supported; what is nearest is named.
        InputError: rows whose names repeat; pass ids=.
        ConfigError: an unknown setting.
    """
    return Study.of(
        adapt_statsmodels(results, Additions(penalty, bandwidth, ids)),
        read_settings(settings, SolverSettings, from_statsmodels),
    )
