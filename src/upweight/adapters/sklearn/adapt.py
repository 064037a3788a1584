"""A fitted scikit-learn estimator, its data and weights as the objective it minimised."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.adapters.adapted import Adapted, Inference
from upweight.adapters.sklearn.codec import SklearnCodec
from upweight.adapters.sklearn.recipe import SMOOTHING, Given, Recipe
from upweight.adapters.sklearn.rules import CHOSEN, rule_for
from upweight.adapters.sklearn.unwrap import Estimator, take_apart
from upweight.adapters.torch import read_weights
from upweight.objective import Examples, Objective, Quadratic, plain_forward
from upweight.space import ParameterSpace


def adapt_sklearn(
    fitted: Any,
    data: tuple[Any, Any],
    sample_weight: Any = None,
    ids: Any = None,
    smoothing: float = SMOOTHING,
) -> Adapted:
    """Read a fitted estimator as the objective it minimised, on the scale Σwᵢ = 1.

    Raises:
        ModelError: an estimator that is unfitted or not supported, or a setting that is not.
        InputError: data it was not fitted on.
    """
    estimator = take_apart(fitted)
    labels = np.asarray(data[1])
    given = Given(estimator.final, estimator.features, smoothing, len(labels))
    recipe = rule_for(estimator.final)(given)
    classes = None if recipe.outcome == "real" else getattr(estimator.final, "classes_", None)
    codec = SklearnCodec(estimator, recipe, classes, _outputs(recipe))
    examples = codec.read(data, "training set", ids)
    weights, notes = _weights(estimator, labels, sample_weight)
    if recipe.weigh is not None:
        weights = weights * recipe.weigh
    notes = (*notes, *recipe.notes)
    return Adapted(
        _objective(recipe, examples, weights), recipe.protocol, codec, notes, inference=_inference(recipe, weights)
    )


def _outputs(recipe: Recipe) -> int:
    """o, the rows of the last weight."""
    found = getattr(recipe.model, "out_features", None)
    return int(found if found is not None else list(recipe.model.parameters())[-1].shape[0])


def _objective(recipe: Recipe, examples: Examples, weights: Float[Tensor, "n"]) -> Objective:
    recipe.model.requires_grad_(True)
    parameters = {name: value.detach() for name, value in recipe.model.named_parameters()}
    space = ParameterSpace.of(parameters, recipe.labels)
    total = float(weights.sum())
    unit = total if recipe.protocol == "fixed_total" else 1.0
    slope = None if recipe.slope is None else recipe.slope / unit
    outputs = _outputs(recipe)
    trailing = () if outputs == 1 else (outputs,)
    return Objective(
        recipe.model,
        plain_forward,
        recipe.loss.bound(trailing),
        examples,
        weights / total,
        Quadratic(recipe.penalty / unit, recipe.reach, slope),
        space,
        space.flatten(parameters),
        trailing,
    )


def _inference(recipe: Recipe, weights: Float[Tensor, "n"]) -> Inference:
    """Weights are variances'; the dispersion of a squared error is estimated, of a likelihood one."""
    loss, outputs = recipe.loss, _outputs(recipe)
    unit = float(weights.sum())
    if loss.mean(torch.zeros(1, outputs, dtype=torch.float64)) is None or (loss.kind == "real" and outputs > 1):
        return Inference(unit, dispersion=None, kind="hc0")
    estimated = loss.kind == "real"
    return Inference(unit, dispersion="estimated" if estimated else "one", expected=True, student=estimated)


def _weights(
    estimator: Estimator, labels: np.ndarray, sample_weight: Any
) -> tuple[Float[Tensor, "n"], tuple[str, ...]]:
    """ω: sample weights times class weights, and what must be said of them."""
    final, notes = estimator.final, list(estimator.notes)
    if type(final).__name__ in CHOSEN:
        notes.append("The penalty it chose is held fixed")
    weights = np.ones(len(labels)) if sample_weight is None else read_weights(sample_weight, len(labels)).numpy()
    chosen = final.get_params().get("class_weight")
    if chosen is not None:
        from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

        if isinstance(chosen, str):
            table = dict(
                zip(
                    final.classes_,
                    compute_class_weight(chosen, classes=final.classes_, y=labels, sample_weight=sample_weight),
                    strict=True,
                )
            )
            notes.append("Balanced class weights are held fixed; refitting would change them")
        else:
            table = dict(chosen)
        weights = weights * compute_sample_weight({c: table.get(c, 1.0) for c in final.classes_}, labels)
    return torch.as_tensor(weights, dtype=torch.float64), tuple(notes)
