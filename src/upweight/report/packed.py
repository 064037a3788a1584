"""Columns as JSON that a page reads fast: numbers in base64, repeated values once."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from upweight.errors import plain

Column = dict[str, Any]


def numbers(values: np.ndarray | None) -> Column | None:
    """Single-precision numbers, little-endian: seven digits, more than anyone reads."""
    if values is None:
        return None
    with np.errstate(over="ignore"):
        return {"f4": base64.b64encode(np.asarray(values).astype("<f4").tobytes()).decode()}


def codes(values: np.ndarray | None) -> Column | None:
    """Whole numbers from zero, in as few bytes as they need."""
    if values is None:
        return None
    top = int(np.max(values, initial=0))
    size = 1 if top < 2**8 else 2 if top < 2**16 else 4
    return {f"u{size}": base64.b64encode(np.asarray(values).astype(f"<u{size}").tobytes()).decode()}


def names(ids: np.ndarray) -> Column:
    """Names of points: numbers and texts as they are, positions as their number alone."""
    found = ids.tolist()
    if ids.dtype.kind in "iu" and np.array_equal(ids, np.arange(len(ids))):
        return {"count": len(ids)}
    return {"names": [jsonable(name) for name in found]}


def jsonable(value: Any) -> Any:
    """A value as JSON holds it: numbers, texts and truth as they are, anything else as its text."""
    value = plain(value)
    if isinstance(value, float) and value != value:
        return "nan"
    return (
        value
        if isinstance(value, str | int | bool) or (isinstance(value, float) and abs(value) < np.inf)
        else str(value)
    )


def script_json(payload: Any) -> str:
    """JSON that can stand in a script element: no character of it can end the element or open another."""
    text = json.dumps(payload, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
