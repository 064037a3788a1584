"""New data for a statsmodels study: frames read by the model's own formula, arrays in the columns of its design."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.adapters.adapted import Codec
from upweight.adapters.statsmodels.formulas import design, outcomes
from upweight.adapters.statsmodels.reading import Reading
from upweight.errors import ConfigError, LabelError, ShapeError, plain
from upweight.objective import Examples, read_examples
from upweight.objective.data import index_array

KEYS = ("exog", "endog", "offset", "exposure")


@dataclass(frozen=True)
class StatsmodelsCodec(Codec):
    """Queries are a frame with the variables of the formula, (exog, endog), or {'exog': …, 'endog': …, 'offset': …}."""

    model: Any
    reading: Reading
    offset: bool
    """The model has an offset or an exposure, so new data must say theirs."""

    def read(self, data: Any, what: str, ids: Any = None) -> Examples:
        if isinstance(data, Examples):
            return data
        if self.reading.saddle and what != "query":
            raise ConfigError(
                f"the {what} has no instruments. Expected points of the training set for questions about instrumental variables; ask drop, drop_group, reweight or relabel."
            )
        parts = self._parts(data, what)
        exog = self._exog(parts["exog"], what)
        offset = self._offset(parts, len(exog), what)
        found = parts.get("endog")
        targets = None if found is None else self._targets(found, len(exog), what)
        index = next((part.index for part in (parts["exog"], found) if hasattr(part, "iloc")), None)  # pyright: ignore
        ids = index_array(index) if ids is None and index is not None else ids
        return read_examples((self.reading.arrange(exog, offset), targets), torch.float64, ids, what)

    def target(self, label: Any, like: Tensor) -> Tensor:
        if like.numel() != 1:
            raise LabelError(
                f"found the label {label!r}. Expected no relabelling of event times; ask replace() with the subject as it should be."
            )
        return self.reading.encode(np.asarray([label])).to(like.dtype).reshape(like.shape)

    def label(self, target: Any) -> Any:
        return target if self.reading.classes is None else plain(self.reading.classes[int(target)])

    def _parts(self, data: Any, what: str) -> dict[str, Any]:
        if isinstance(data, Mapping) and not hasattr(data, "iloc"):
            unknown = [key for key in data if key not in KEYS]
            if unknown or "exog" not in data:
                raise ConfigError(
                    f"the {what} has keys {list(data)}. Expected 'exog', and of {', '.join(KEYS[1:])} what there is."
                )
            parts = dict(data)
        elif isinstance(data, tuple | list) and len(data) == 2:
            parts = {"exog": data[0], "endog": data[1]}
        else:
            parts = {"exog": data}
        if parts.get("endog") is None:
            parts["endog"] = outcomes(self.model, parts["exog"], what)
        return parts

    def _exog(self, given: Any, what: str) -> np.ndarray:
        found = design(self.model, given, what)
        width = np.shape(self.model.exog)[1]
        if found.ndim != 2 or found.shape[1] != width:
            raise ShapeError(
                f"the {what} has a design of shape {found.shape}. Expected (m, {width}): {', '.join(map(str, self.model.data.xnames[:6]))}{', …' if width > 6 else ''}, the constant included."
            )
        return found

    def _offset(self, parts: dict[str, Any], count: int, what: str) -> np.ndarray | None:
        given = [name for name in ("offset", "exposure") if parts.get(name) is not None]
        if not self.offset:
            if given:
                raise ConfigError(
                    f"the {what} has {given[0]}, and the model was fitted without one. Expected none; leave it out."
                )
            return None
        if not given:
            raise ConfigError(
                f"the {what} has no offset, and the model was fitted with one. Expected {{'exog': …, 'endog': …, 'offset': …}}, or 'exposure' in its place."
            )
        total = np.zeros(count)
        for name in given:
            part = np.asarray(parts[name], dtype=float) * np.ones(count)
            total = total + (np.log(part) if name == "exposure" else part)
        return total

    def _targets(self, found: Any, count: int, what: str) -> Tensor:
        if len(found) != count:
            raise ShapeError(
                f"the {what} has {count} rows of exog and {len(found)} outcomes. Expected one outcome a row."
            )
        return self.reading.encode(np.asarray(found))
