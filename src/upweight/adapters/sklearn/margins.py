"""Support vector machines and stochastic gradient descent: losses of a margin, their corners smoothed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from upweight.adapters.adapted import CORNER
from upweight.adapters.sklearn.active import penalised_on_active
from upweight.adapters.sklearn.recipe import Given, Recipe, linear_map, linear_names, on_weights, refuse
from upweight.objective import Loss, read_loss
from upweight.objective.hinges import ModifiedHuber, SmoothHinge, SquaredHinge
from upweight.objective.robust import InsensitiveLoss, RobustNorm

CLASSIFIERS: dict[str, Callable[[Any, float], Loss]] = {
    "hinge": lambda settings, t: SmoothHinge(t),
    "squared_hinge": lambda settings, t: SquaredHinge(),
    "modified_huber": lambda settings, t: ModifiedHuber(),
    "log_loss": lambda settings, t: read_loss("binary_cross_entropy"),
}
REGRESSIONS: dict[str, Callable[[Any, float], Loss]] = {
    "squared_error": lambda settings, t: read_loss("squared_error"),
    "huber": lambda settings, t: RobustNorm("HuberT", (float(settings["epsilon"]),), 1.0),
    "epsilon_insensitive": lambda settings, t: InsensitiveLoss(float(settings["epsilon"]), t),
    "squared_epsilon_insensitive": lambda settings, t: InsensitiveLoss(float(settings["epsilon"]), t, squared=True),
}
SMOOTHED = ("hinge", "epsilon_insensitive")


def linear_svm(given: Given) -> Recipe:
    """½‖coef‖² + C Σ loss, the intercept penalised as liblinear does: LinearSVC and LinearSVR."""
    settings = given.final.get_params()
    if settings.get("penalty", "l2") != "l2":
        raise refuse("LinearSVC(penalty='l1')", "penalty='l2'")
    if settings.get("multi_class", "ovr") != "ovr":
        raise refuse("LinearSVC(multi_class='crammer_singer')", "multi_class='ovr'")
    model = linear_map(given.final)
    _refuse_weighted_classes(given, model.out_features)
    on_bias = 0.0 if model.bias is None else 1 / float(settings["intercept_scaling"]) ** 2
    return _svm(given, model, settings["loss"], on_bias)


def kernel_svm(given: Given) -> Recipe:
    """½‖coef‖² + C Σ loss with a free intercept: SVC and SVR of a linear kernel."""
    settings = given.final.get_params()
    if settings["kernel"] != "linear":
        raise refuse(f"{given.kind}(kernel={settings['kernel']!r})", f"{given.kind}(kernel='linear'), or KernelRidge")
    if given.classes is not None and len(given.classes) > 2:
        raise refuse("SVC of more than two classes, which is one machine a pair,", "LinearSVC")
    loss = "epsilon_insensitive" if given.classes is None else "hinge"
    return _svm(given, linear_map(given.final), loss, 0.0)


def _svm(given: Given, model: Any, loss: str, on_bias: float) -> Recipe:
    settings = given.final.get_params()
    unit = on_weights(model, 1.0, on_bias)
    table, outcome = (CLASSIFIERS, "sign") if given.classes is not None else (REGRESSIONS, "real")
    return Recipe(
        model,
        table[loss](settings, given.smoothing),
        unit / float(settings["C"]),
        unit,
        "fixed_total",
        outcome,
        labels=linear_names(given, model),
        notes=smoothed(loss, given.smoothing),
    )


def stochastic(given: Given) -> Recipe:
    """Mean loss + alpha·penalty as SGDClassifier and SGDRegressor descend it; exact only where they arrived."""
    settings, classifies = given.final.get_params(), given.classes is not None
    table = CLASSIFIERS if classifies else REGRESSIONS
    loss = settings["loss"]
    if loss not in table:
        raise refuse(f"{given.kind}(loss={loss!r})", f"loss={' or '.join(map(repr, table))}")
    outputs = len(given.final.coef_) if classifies else 1
    _refuse_weighted_classes(given, outputs)
    logistic = "binary" if outputs == 1 else "labels"
    outcome = "real" if not classifies else (logistic if loss == "log_loss" else "sign")
    ratio = {"l2": 0.0, "l1": 1.0, "elasticnet": float(settings["l1_ratio"] or 0.0), None: 0.0}[settings["penalty"]]
    alpha = 0.0 if settings["penalty"] is None else float(settings["alpha"])
    found = table[loss](settings, given.smoothing)
    return penalised_on_active(given, found, alpha, ratio, outcome, smoothed(loss, given.smoothing))


def smoothed(loss: str, temperature: float) -> tuple[str, ...]:
    """What is said of a loss whose corner is smoothed."""
    return (f"{CORNER} {loss} loss is smoothed over {temperature:g}, for refits as well",) if loss in SMOOTHED else ()


def _refuse_weighted_classes(given: Given, outputs: int) -> None:
    """One machine a class weighs its own class only, which is no weight of a point."""
    if outputs > 1 and given.final.get_params().get("class_weight") is not None:
        raise refuse(f"{given.kind} of more than two classes with class_weight", "sample_weight, or LogisticRegression")


def signs(classes: Any) -> torch.Tensor:
    """−1 and 1 for two classes; one row a class, 1 where it is the row's own, for more."""
    count = len(classes)
    return torch.tensor([-1.0, 1.0]) if count == 2 else 2 * torch.eye(count) - 1
