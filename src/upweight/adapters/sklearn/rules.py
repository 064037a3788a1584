"""Which estimator is read by which rule, and what is nearest to one that none reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from upweight.adapters.sklearn.active import elastic_net
from upweight.adapters.sklearn.huber import huber
from upweight.adapters.sklearn.kernels import gaussian_classification, gaussian_regression, kernel_ridge
from upweight.adapters.sklearn.linear import generalised, least_squares, logistic, ridge_classifier
from upweight.adapters.sklearn.margins import kernel_svm, linear_svm, stochastic
from upweight.adapters.sklearn.networks import perceptron
from upweight.adapters.sklearn.recipe import Given, Recipe
from upweight.errors import ModelError

RULES: dict[str, Callable[[Given], Recipe]] = {
    "LinearRegression": least_squares,
    "Ridge": least_squares,
    "RidgeCV": least_squares,
    "RidgeClassifier": ridge_classifier,
    "RidgeClassifierCV": ridge_classifier,
    "LogisticRegression": logistic,
    "LogisticRegressionCV": logistic,
    "PoissonRegressor": generalised,
    "GammaRegressor": generalised,
    "TweedieRegressor": generalised,
    "Lasso": elastic_net,
    "LassoCV": elastic_net,
    "ElasticNet": elastic_net,
    "ElasticNetCV": elastic_net,
    "HuberRegressor": huber,
    "LinearSVC": linear_svm,
    "LinearSVR": linear_svm,
    "SVC": kernel_svm,
    "SVR": kernel_svm,
    "SGDClassifier": stochastic,
    "SGDRegressor": stochastic,
    "MLPClassifier": perceptron,
    "MLPRegressor": perceptron,
    "KernelRidge": kernel_ridge,
    "GaussianProcessRegressor": gaussian_regression,
    "GaussianProcessClassifier": gaussian_classification,
}
"""Estimators by the name of their class, which must be this very one: a subclass may minimise something else."""

CHOSEN = ("RidgeCV", "RidgeClassifierCV", "LogisticRegressionCV", "LassoCV", "ElasticNetCV")
"""Estimators that chose their own penalty, which is held fixed."""

NEAREST = {
    "NuSVC": "SVC(kernel='linear')",
    "NuSVR": "SVR(kernel='linear')",
    "Perceptron": "SGDClassifier(loss='hinge')",
    "PassiveAggressiveClassifier": "SGDClassifier(loss='hinge')",
    "PassiveAggressiveRegressor": "SGDRegressor(loss='epsilon_insensitive')",
    "BayesianRidge": "Ridge, with alpha = lambda_/alpha_ of the fit",
    "ARDRegression": "Ridge",
    "Lars": "LinearRegression",
    "LassoLars": "Lasso",
    "LassoLarsCV": "LassoCV",
    "LassoLarsIC": "Lasso",
    "OrthogonalMatchingPursuit": "LinearRegression on the chosen columns",
    "MultiTaskLasso": "Lasso, which may have several outcomes",
    "MultiTaskElasticNet": "ElasticNet, which may have several outcomes",
    "QuantileRegressor": "statsmodels' QuantReg, by uw.from_statsmodels",
    "TheilSenRegressor": "HuberRegressor",
    "RANSACRegressor": "HuberRegressor, or the .estimator_ on the inliers",
    "LinearDiscriminantAnalysis": "LogisticRegression",
    "QuadraticDiscriminantAnalysis": "LogisticRegression on PolynomialFeatures",
    "GaussianNB": "LogisticRegression",
    "MultinomialNB": "LogisticRegression",
    "BernoulliNB": "LogisticRegression",
    "OneVsRestClassifier": "LogisticRegression, or one study for each of .estimators_",
    "OneVsOneClassifier": "LogisticRegression",
    "MultiOutputRegressor": "Ridge of several outcomes, or one study for each of .estimators_",
    "MultiOutputClassifier": "one study for each of .estimators_",
    "PLSRegression": "Ridge",
}
"""What stands nearest to estimators no rule reads."""


def rule_for(final: Any) -> Callable[[Given], Recipe]:
    """The rule of a fitted estimator.

    Raises:
        ModelError: there is none; what is nearest is named.
    """
    kind = type(final).__name__
    if kind in RULES:
        return RULES[kind]
    raise ModelError(
        f"{kind} is not supported; the nearest that is: {_nearest(final)}. Expected one of {', '.join(RULES)}, alone or at the end of a Pipeline; for other models build a uw.Study on an nn.Module."
    )


def _nearest(final: Any) -> str:
    """By name, by the class it inherits from, or by what it predicts."""
    for kind in type(final).__mro__:
        found = NEAREST.get(kind.__name__) or (kind.__name__ if kind.__name__ in RULES else None)
        if found:
            return found
    return "LogisticRegression or MLPClassifier" if hasattr(final, "classes_") else "Ridge, KernelRidge or MLPRegressor"
