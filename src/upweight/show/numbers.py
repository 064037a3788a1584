"""Rows of a table, and series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from upweight.show.shown import Look, Shown

COLUMNS = 12
"""Columns of a table that the page carries."""

CELL = 200
"""Characters of a cell that the page carries."""

STEPS = 240
"""Steps of a series that the page draws; a longer one is drawn by the extremes of equal stretches."""

CHANNELS = 4
"""Channels of a series that the page draws."""


@dataclass(frozen=True)
class Table(Shown):
    """Rows of a frame or of an (n, columns) array, the first 12 columns of them.

    Attributes:
        columns: names of the columns; a frame's own by default.
    """

    columns: Sequence[str] | None = None

    kind = "table"

    @property
    def head(self) -> Look:
        found = self.columns if self.columns is not None else getattr(self.train, "columns", None)
        if found is None:
            found = [f"x{place}" for place in range(np.shape(self.train)[1])]
        names = [str(name) for name in found]
        return {"columns": names[:COLUMNS], "left": max(0, len(names) - COLUMNS)}

    def look(self, thing: Any) -> Look:
        return {"cells": [cell(value) for value in list(thing)[:COLUMNS]]}


@dataclass(frozen=True)
class Series(Shown):
    """Time series, (n, steps) or (n, steps, channels), or a list of arrays of different lengths."""

    kind = "series"

    def look(self, thing: Any) -> Look:
        values = np.asarray(thing, dtype=float)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or not len(values):
            return {"broken": f"shape {values.shape} is no series"}
        return {"series": [thinned(values[:, channel]) for channel in range(min(values.shape[1], CHANNELS))]}


def cell(value: Any) -> str:
    """A cell in few characters."""
    if isinstance(value, float | np.floating):
        return f"{value:.5g}"
    return str(value)[:CELL]


def thinned(values: np.ndarray) -> list[float | None]:
    """At most ``STEPS`` numbers that keep every peak: the lowest and the highest of each stretch, in their order."""
    if len(values) > STEPS:
        stretches = np.array_split(np.nan_to_num(values, nan=0.0), STEPS // 2)
        kept = [part[sorted({int(part.argmin()), int(part.argmax())})] for part in stretches]
        values = np.concatenate(kept)
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
