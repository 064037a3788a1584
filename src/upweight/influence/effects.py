"""The answer: a predicted change of every measurement under every change, labelled and in words."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from upweight.errors import ConfigError, MissingExtraError, ShapeError
from upweight.influence.modules import ModuleEffects
from upweight.influence.notebook import effects_html
from upweight.store import read_arrays, write_arrays

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

PHRASES = {
    "drop": "if each training point is left out",
    "drop_group": "if each group is left out",
    "upweight": "per unit of weight added to each training point",
    "relabel": "if each training point is relabelled",
    "replace": "if each training point is replaced",
    "add": "if each new point is added",
    "reweight": "under each new weighting of the training set",
    "change_penalty": "under each new penalty",
    "penalty_derivative": "per unit of each penalty's strength",
}
WHOLE = ("drop_group", "reweight", "change_penalty", "penalty_derivative")
ORDER_WORDS = {
    ("first", False): "first order",
    ("first", True): "first order",
    ("newton", False): "leverage-corrected",
    ("newton", True): "one Newton step",
    ("two_newton", True): "two Newton steps",
    **{("refit", whole): "really refitted" for whole in (False, True)},
    **{("pbrf", whole): "proximal Bregman response" for whole in (False, True)},
}
"""What an order is called, for changes of single points and of many at once."""

DONE = ("refit", "pbrf")
"""Orders of effects that were carried out, not predicted."""

POINT_SIGN = {"drop": 1.0, "drop_group": 1.0, "upweight": -1.0, "add": -1.0}
"""Turns an effect on a loss into the helpfulness of the points: dropping a helpful point raises the loss."""


@dataclass(frozen=True, repr=False)
class Effects:
    """Predicted changes (m, k) of m measurements under k changes of the training set.

    Attributes:
        values: (m, k) float64; the predicted change of the measurement if the change is made, in ``unit``.
        query_ids: (m,) names of the rows.
        train_ids: (k,) names of the columns: training points, groups or penalties.
        question: which change: 'drop', 'upweight', ...
        estimand: of what it is taken: 'response' (rows gᵢ), or 'newton' (gᵢ − Hᵢs, off the minimum).
        measure, unit: what was measured and in what unit.
        order: 'first' (−TH⁻¹Cᵀ), 'newton' (leverage-corrected, at shifted outputs) or 'two_newton' (groups); 'refit' or 'pbrf'
            where the change was carried out (``uw.evaluate.Refits``).
        protocol: 'fixed_mean' or 'fixed_total', what happens to the penalty.
        verdict: how the curvature was inverted and how well, in words.
        notes: what was approximated or held fixed, and what else a reader must know.
        split: how ``by_module`` takes the scoring pass again; never saved, None where there is nothing to split.
    """

    values: np.ndarray
    query_ids: np.ndarray
    train_ids: np.ndarray
    question: str
    estimand: str
    measure: str
    unit: str
    order: str
    protocol: str
    verdict: str
    notes: tuple[str, ...] = ()
    split: Callable[[], tuple[tuple[str, ...], np.ndarray]] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.query_ids), len(self.train_ids)):
            raise ShapeError(
                f"effects of shape {self.values.shape} have {len(self.query_ids)} query ids and {len(self.train_ids)} train ids. Expected one id a row and a column."
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"split": None}  # a pickle holds the answer, not the model it came from

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        m, k = self.values.shape
        low, high = (float(self.values.min()), float(self.values.max())) if self.values.size else (0.0, 0.0)
        thing = "parameter" if self.measure == "parameters" else "query"
        what = f"{m} {thing}" if m == 1 else f"{m} {'parameters' if thing == 'parameter' else 'queries'}"
        words = self.measure if self.unit == self.measure else f"{self.measure} ({self.unit})"
        how = "" if self.order in DONE else "predicted "
        lines = [
            f"Effects ({m} × {k}): the {how}change in {words} of {what} {PHRASES[self.question]}.",
            f"Values from {low:.3g} to {high:.3g}; {ORDER_WORDS[self.order, self.question in WHOLE]}, protocol {self.protocol}.",
            f"{self.verdict[:1].upper()}{self.verdict[1:]}.",
            *(f"{note}." for note in self.notes),
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows: the same sentences, and what is strongest; data are escaped."""
        return effects_html(self)

    def helpful(self, k: int = 10) -> pd.DataFrame:
        """The k most helpful points of every query, fewer where fewer help: without them its loss would be higher."""
        return self._ranked(self._point_sign(), k)

    def harmful(self, k: int = 10) -> pd.DataFrame:
        """The k most harmful points of every query, fewer where fewer harm: without them its loss would be lower."""
        return self._ranked(-self._point_sign(), k)

    def raises(self, k: int = 10) -> pd.DataFrame:
        """The k changes that raise each measurement most, fewer where fewer raise it."""
        return self._ranked(1.0, k)

    def lowers(self, k: int = 10) -> pd.DataFrame:
        """The k changes that lower each measurement most, fewer where fewer lower it."""
        return self._ranked(-1.0, k)

    def groupby(self, labels: Sequence[Any] | np.ndarray) -> Effects:
        """Effects summed over the training points that share a label, such as source or class.

        A sum of single effects; for the effect of leaving the whole group out, which is not the sum,
        ask ``drop_group``.
        """
        found = np.asarray(labels)
        if found.shape != self.train_ids.shape:
            raise ShapeError(
                f"groupby found labels of shape {found.shape} for {len(self.train_ids)} columns. Expected one label a training point."
            )
        groups, where = np.unique(found, return_inverse=True)
        totals = np.zeros((len(self.values), len(groups)))
        np.add.at(totals.T, where, self.values.T)
        notes = (*self.notes, "Sums of single effects over groups")
        return replace(self, values=totals, train_ids=groups, notes=notes, split=None)

    def by_module(self) -> ModuleEffects:
        """The same effects cut along the modules whose parameters they pass through; the parts add up to ``values``.

            effect = Σ_module −(T H⁻¹)_module · C_module

        Returns:
            ModuleEffects with .values (modules, m, k), .modules and .to_pandas(); ``["name"]`` is one module's Effects.

        Raises:
            ConfigError: effects that are not such a sum (leverage-corrected ones), or that were loaded or copied.

        Error and cost:
            Exact. Takes the scoring pass, and the query's, again.
        """
        if self.order != "first":
            raise ConfigError(
                f"by_module() found effects of order {self.order!r}, which are no sum over modules. Expected first-order ones; ask with order='first', or upweight()."
            )
        if self.split is None:
            raise ConfigError(
                f"by_module() found effects of {self.question!r} that cannot be taken again: loaded, copied, a part already, or measured over a set. Expected effects of single points as a study returned them; ask the study anew, with a measure of each query."
            )
        modules, values = self.split()
        return ModuleEffects(values, modules, self)

    def to_pandas(self) -> pd.DataFrame:
        """A frame with query ids as index and train ids as columns."""
        import pandas as pd

        return pd.DataFrame(
            self.values, index=pd.Index(self.query_ids, name="query"), columns=pd.Index(self.train_ids, name="train")
        )

    def to_xarray(self) -> xr.DataArray:
        """A labelled array with dimensions query and train, the rest as attributes."""
        try:
            import xarray as xr
        except ImportError as error:
            raise MissingExtraError(
                "to_xarray() needs xarray, which is not installed. Install it with: pip install 'upweight[xarray]'"
            ) from error
        attributes = {name: getattr(self, name) for name in _WORDS} | {"notes": list(self.notes)}
        return xr.DataArray(
            self.values,
            dims=("query", "train"),
            coords={"query": self.query_ids, "train": self.train_ids},
            name="effect",
            attrs=attributes,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file, labels included; read back with ``uw.load``."""
        labels = {name: getattr(self, name) for name in _WORDS}
        labels |= {"notes": list(self.notes), "query_ids": _plain(self.query_ids), "train_ids": _plain(self.train_ids)}
        return write_arrays(path, {"values": self.values}, labels)

    def _point_sign(self) -> float:
        if self.measure != "loss" or self.question not in POINT_SIGN:
            raise ConfigError(
                f"helpful() and harmful() found {self.question!r} measured by {self.measure!r}. Expected a loss, and points that are dropped, upweighted or added; use raises() or lowers()."
            )
        return POINT_SIGN[self.question]

    def _ranked(self, sign: float, k: int) -> pd.DataFrame:
        import pandas as pd

        if k < 1:
            raise ConfigError(f"a ranking found k={k}. Expected at least 1; ask for as many rows as you want to read.")
        k = min(k, self.values.shape[1])
        order = np.argsort(-sign * self.values, axis=1, kind="stable")[:, :k]
        picked = np.take_along_axis(self.values, order, 1)
        frame = pd.DataFrame(
            {
                "query": np.repeat(self.query_ids, k),
                "rank": np.tile(np.arange(1, k + 1), len(self.values)),
                "train": self.train_ids[order].ravel(),
                "effect": picked.ravel(),
            }
        )
        return frame.loc[sign * frame["effect"] > 0].reset_index(drop=True)


_WORDS = [
    field.name for field in fields(Effects) if field.name not in ("values", "query_ids", "train_ids", "notes", "split")
]


def load(path: str | os.PathLike[str]) -> Effects:
    """Read Effects written by ``Effects.save``.

    Raises:
        StoreError: the file is missing, damaged, or was not written by this library.
    """
    arrays, labels = read_arrays(path)
    ids = {name: _ids(labels.pop(name)) for name in ("query_ids", "train_ids")}
    return Effects(values=arrays["values"], **ids, notes=tuple(labels.pop("notes")), **labels)


def _plain(ids: np.ndarray) -> list[Any]:
    """Ids as JSON: numbers and strings as they are, anything else as its text."""
    return [item if isinstance(item, int | float | str | bool) else str(item) for item in ids.tolist()]


def _ids(items: list[Any]) -> np.ndarray:
    found = np.asarray(items)
    if len({type(item) for item in items}) > 1:
        found = np.empty(len(items), dtype=object)
        found[:] = items
    return found
