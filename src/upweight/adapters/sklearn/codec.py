"""The user's data and labels as a fitted scikit-learn estimator read them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

from upweight._typing import Tensor
from upweight.adapters.adapted import Codec
from upweight.adapters.sklearn.recipe import Recipe
from upweight.adapters.sklearn.unwrap import Estimator
from upweight.errors import LabelError, ShapeError, plain
from upweight.objective import Examples, read_examples
from upweight.objective.data import index_array


@dataclass(frozen=True)
class SklearnCodec(Codec):
    """Columns are checked and transformed as in ``predict``; labels are the estimator's classes."""

    estimator: Estimator
    recipe: Recipe
    classes: np.ndarray | None
    outputs: int

    def read(self, data: Any, what: str, ids: Any = None) -> Examples:
        if isinstance(data, Examples):
            return data
        inputs, targets = data if isinstance(data, tuple | list) and len(data) == 2 else (data, None)
        if ids is None:
            index = next((part.index for part in (inputs, targets) if hasattr(part, "iloc")), None)  # pyright: ignore
            ids = None if index is None else index_array(index)
        encoded = None if targets is None else self._encode(np.asarray(targets), ids, what)
        features = self._features(inputs, what)
        if encoded is None:
            encoded = np.empty((features.shape[0], 0))  # inputs alone, for measure='prediction'
        return read_examples((features, encoded), torch.float64, ids, what)

    def target(self, label: Any, like: Tensor) -> Tensor:
        return torch.as_tensor(self._encode(np.asarray([label]), None, "new label")[0], dtype=like.dtype).reshape(
            like.shape
        )

    def label(self, target: Any) -> Any:
        return target if self.classes is None else plain(self.classes[int(target)])

    def _encode(self, targets: np.ndarray, ids: Any, what: str) -> np.ndarray:
        """Outcomes as the loss takes them: see ``Recipe.outcome``."""
        if self.classes is None or (self.recipe.outcome == "labels" and targets.ndim == 2):
            return self._numbers(targets)
        unknown = ~np.isin(targets, self.classes)
        if unknown.any():
            where = int(np.argmax(unknown))
            name = where if ids is None else ids[where]
            raise LabelError(
                f"example {name} of the {what} has class {plain(targets[where])!r}. Expected one of {self.classes.tolist()}, which the estimator was fitted on."
            )
        found = np.searchsorted(self.classes, targets)
        if self.recipe.outcome == "class":
            return found
        indicators = found.astype(float) if self.outputs == 1 else np.eye(len(self.classes))[found]
        return 2 * indicators - 1 if self.recipe.outcome == "sign" else indicators

    def _numbers(self, targets: np.ndarray) -> np.ndarray:
        column = self.outputs == 1 and targets.ndim == 2 and targets.shape[1] == 1
        found = np.asarray(targets[:, 0] if column else targets, dtype=float)
        return found if self.estimator.outcomes is None else self.estimator.outcomes(found)

    def _features(self, inputs: Any, what: str) -> Any:
        self._check_columns(inputs, what)
        if self.estimator.transformers is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                inputs = self.estimator.transformers.transform(inputs)
        if self.recipe.features is not None:
            inputs = self.recipe.features(inputs)
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
