"""Fitted scikit-learn estimators as objectives: linear and logistic regression, alone or at the end of a Pipeline."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from upweight._typing import Tensor
from upweight.adapters.adapted import Adapted, Codec
from upweight.adapters.torch import read_weights
from upweight.errors import LabelError, MissingExtraError, ModelError, NonFiniteInput, ShapeError, plain
from upweight.objective import Examples, Loss, Objective, Quadratic, plain_forward, read_examples, read_loss
from upweight.objective.data import index_array
from upweight.objective.linear_map import LinearMap
from upweight.space import ParameterSpace

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

SUPPORTED = ("LinearRegression", "Ridge", "LogisticRegression")


@dataclass(frozen=True)
class Estimator:
    """A supported estimator apart from the transformers in front of it."""

    final: Any
    transformers: Any | None
    columns: int | None
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class SklearnCodec(Codec):
    """Columns are checked and transformed as in ``predict``; labels are the estimator's classes."""

    estimator: Estimator
    classes: np.ndarray | None
    outputs: int

    @property
    def binary(self) -> bool:
        """True for two classes told apart by one output."""
        return self.classes is not None and self.outputs == 1

    def read(self, data: Any, what: str, ids: Any = None) -> Examples:
        if isinstance(data, Examples):
            return data
        inputs, targets = data if isinstance(data, tuple | list) and len(data) == 2 else (data, None)
        if ids is None:
            index = next((part.index for part in (inputs, targets) if hasattr(part, "iloc")), None)  # pyright: ignore
            ids = None if index is None else index_array(index)
        encoded = None if targets is None else self._encode(np.asarray(targets), ids, what)
        features = self._features(inputs, what)
        return read_examples((features, encoded), torch.float64, ids, what)

    def target(self, label: Any, like: Tensor) -> Tensor:
        return torch.as_tensor(self._encode(np.asarray([label]), None, "new label")[0], dtype=like.dtype).reshape(
            like.shape
        )

    def label(self, target: Any) -> Any:
        return target if self.classes is None else plain(self.classes[int(target)])

    def _encode(self, targets: np.ndarray, ids: Any, what: str) -> np.ndarray:
        if self.classes is None:
            column = self.outputs == 1 and targets.ndim == 2 and targets.shape[1] == 1
            return np.asarray(targets[:, 0] if column else targets, dtype=float)
        unknown = ~np.isin(targets, self.classes)
        if unknown.any():
            where = int(np.argmax(unknown))
            name = where if ids is None else ids[where]
            raise LabelError(
                f"example {name} of the {what} has class {plain(targets[where])!r}. Expected one of {self.classes.tolist()}, which the estimator was fitted on."
            )
        found = np.searchsorted(self.classes, targets)
        return found.astype(float) if self.binary else found

    def _features(self, inputs: Any, what: str) -> Any:
        self._check_columns(inputs, what)
        if self.estimator.transformers is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                inputs = self.estimator.transformers.transform(inputs)
        return inputs if sparse.issparse(inputs) else np.asarray(inputs, dtype=float)

    def _check_columns(self, inputs: Any, what: str) -> None:
        names = getattr(inputs, "columns", None)
        if names is not None and self.estimator.names is not None and tuple(names) != self.estimator.names:
            raise ShapeError(
                f"the {what} has columns {list(names)[:6]}. Expected the columns of the fit, in order: {list(self.estimator.names)[:6]}."
            )
        if self.estimator.columns is None:
            return  # the first transformer takes what it takes, texts for instance
        shape = np.shape(inputs)
        if len(shape) != 2 or shape[1] != self.estimator.columns:
            raise ShapeError(
                f"the {what} has inputs of shape {shape}. Expected (n, {self.estimator.columns}): the columns the estimator was fitted on."
            )


def adapt_sklearn(fitted: BaseEstimator, data: tuple[Any, Any], sample_weight: Any = None, ids: Any = None) -> Adapted:
    """Read a fitted estimator as the objective it minimised, on the scale Σwᵢ = 1.

    Raises:
        ModelError: an estimator that is unfitted or not supported, or a setting that is not.
        InputError: data it was not fitted on.
    """
    estimator = _take_apart(fitted)
    final = estimator.final
    classes = getattr(final, "classes_", None)
    codec = SklearnCodec(estimator, classes, len(np.atleast_2d(final.coef_)))
    examples = codec.read(data, "training set", ids)
    labels = np.asarray(data[1])
    weights, notes = _weights(final, labels, sample_weight, estimator.transformers is not None)
    return Adapted(_objective(final, examples, weights, codec.binary), "fixed_total", codec, notes)


def _objective(final: Any, examples: Examples, weights: Tensor, binary: bool) -> Objective:
    model = LinearMap(*_coefficients(final))
    model.requires_grad_(True)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    space, theta = ParameterSpace.of(parameters), torch.cat([value.reshape(-1) for value in parameters.values()])
    if not torch.isfinite(theta).all():
        raise NonFiniteInput(
            f"the fitted {type(final).__name__} has coefficients that are NaN or infinite. Expected finite ones; fit it again."
        )
    trailing = () if model.out_features == 1 else (model.out_features,)
    total = float(weights.sum())
    penalty = Quadratic(_penalty(final, model, space) / total, _reach(final, model, space))
    loss = _loss(final, binary).bound(trailing)
    return Objective(model, plain_forward, loss, examples, weights / total, penalty, space, theta, trailing)


def _take_apart(fitted: Any) -> Estimator:
    try:
        from sklearn.exceptions import NotFittedError
        from sklearn.pipeline import Pipeline
        from sklearn.utils.validation import check_is_fitted
    except ImportError as error:
        raise MissingExtraError(
            "from_sklearn needs scikit-learn, which is not installed. Install it with: pip install 'upweight[sklearn]'"
        ) from error
    final = fitted.steps[-1][1] if isinstance(fitted, Pipeline) else fitted
    if isinstance(final, Pipeline):
        raise ModelError(
            "found a Pipeline whose last step is a Pipeline. Expected one level; pass Pipeline([*outer.steps[:-1], *outer.steps[-1][1].steps])."
        )
    if type(final).__name__ not in SUPPORTED:
        inner = (
            " This one holds a fitted estimator: pass its .best_estimator_."
            if hasattr(final, "best_estimator_")
            else ""
        )
        raise ModelError(
            f"{type(final).__name__} is not supported.{inner} Expected one of {', '.join(SUPPORTED)}, or a Pipeline that ends in one; for other models build a uw.Study on an nn.Module."
        )
    try:
        check_is_fitted(final)
    except NotFittedError:
        raise ModelError(
            f"this {type(final).__name__} is not fitted. Expected a fitted estimator; call fit(X, y) first."
        ) from None
    _check_settings(final)
    transformers = fitted[:-1] if isinstance(fitted, Pipeline) and len(fitted.steps) > 1 else None
    outer = fitted.steps[0][1] if isinstance(fitted, Pipeline) else fitted
    names = getattr(outer, "feature_names_in_", None)
    columns = final.n_features_in_ if transformers is None else getattr(outer, "n_features_in_", None)
    return Estimator(final, transformers, columns, None if names is None else tuple(names))


def _check_settings(final: Any) -> None:
    settings = final.get_params()
    if settings.get("positive"):
        raise ModelError(
            f"{type(final).__name__}(positive=True) is not supported: its minimiser may lie on a boundary. Expected positive=False."
        )
    ratio = settings.get("l1_ratio")
    penalty = settings.get("penalty", "deprecated")
    if penalty in ("l1", "elasticnet") or (ratio not in (None, 0, 0.0) and penalty in (None, "deprecated")):
        raise ModelError(
            f"LogisticRegression with an l1 penalty (penalty={penalty!r}, l1_ratio={ratio!r}) is not supported: its objective has no Hessian. Expected l2 or no penalty."
        )


def _coefficients(final: Any) -> tuple[Tensor, Tensor | None]:
    weight = torch.as_tensor(np.atleast_2d(final.coef_), dtype=torch.float64)
    if not final.fit_intercept:
        return weight, None
    return weight, torch.as_tensor(np.atleast_1d(final.intercept_), dtype=torch.float64).expand(len(weight)).clone()


def _loss(final: Any, binary: bool) -> Loss:
    if type(final).__name__ != "LogisticRegression":
        return read_loss("squared_error")
    return read_loss("binary_cross_entropy" if binary else "cross_entropy")


def _penalty(final: Any, model: LinearMap, space: ParameterSpace) -> Tensor:
    """The diagonal of the total penalty's Hessian: 1/C or alpha on coefficients, none on intercepts."""
    strength = np.zeros(model.out_features)
    settings = final.get_params()
    if "alpha" in settings:
        strength = np.broadcast_to(np.asarray(settings["alpha"], dtype=float), (model.out_features,))
    elif "C" in settings and settings.get("penalty", "l2") is not None:
        strength = np.full(model.out_features, 1 / float(settings["C"]))
    diagonal = space.mask("weight").clone()
    diagonal[space.slices()["weight"]] *= torch.as_tensor(np.repeat(strength, model.in_features))
    if settings.get("solver") == "liblinear" and model.bias is not None:
        diagonal[space.slices()["bias"]] = float(strength[0]) / float(settings["intercept_scaling"]) ** 2
    return diagonal


def _reach(final: Any, model: LinearMap, space: ParameterSpace) -> Tensor:
    """Coefficients, and for liblinear the intercept as it is scaled."""
    reach, settings = space.mask("weight"), final.get_params()
    if settings.get("solver") == "liblinear" and model.bias is not None:
        reach[space.slices()["bias"]] = 1 / float(settings["intercept_scaling"]) ** 2
    return reach


def _weights(final: Any, labels: np.ndarray, sample_weight: Any, transformed: bool) -> tuple[Tensor, tuple[str, ...]]:
    notes = ["Transformers held fixed"] if transformed else []
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
