"""Which looks the page carries, and what they are where nobody said."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from upweight._typing import Tensor
from upweight.errors import ConfigError, InputError
from upweight.fitted import Fitted
from upweight.objective import Examples
from upweight.show import Images, Series, Shown, Table
from upweight.show.numbers import COLUMNS

BYTES = 9_000_000
"""Of looks and numbers in a page, so that with its scripts it stays below 10 MB."""

POINT_BYTES, LEAST = 28, 2_000_000
"""What the numbers of a point take, and what is left for looks however many points there are."""

NAMED = {"images": Images, "series": Series, "table": Table}


def of_study(fitted: Fitted, display: Shown | str | None, queries: Examples | None) -> Shown | None:
    """The looks asked for; the study's own inputs under a name; a table of them where they are few numbers a point.

    Raises:
        ConfigError: an unknown name.
        InputError: inputs that cannot be looked at that way.
        ShapeError: not one look a point.
    """
    if isinstance(display, Shown):
        display.require(fitted.objective.count, None if queries is None else len(queries))
        return display
    if display is not None and display not in NAMED:
        raise ConfigError(
            f"display={display!r} is unknown. Expected {', '.join(map(repr, NAMED))}, or an object of uw.show such as uw.show.Text(texts)."
        )
    inputs = _Inputs(fitted.objective.examples)
    if display is None:
        few = inputs.shape is not None and len(inputs.shape) == 1 and inputs.shape[0] <= COLUMNS
        return _table(inputs, queries) if few else None
    if inputs.shape is None:
        raise InputError(
            f"display={display!r} found inputs that are not one array. Expected such inputs; pass uw.show.{NAMED[display].__name__}(train, query) with what is to be seen."
        )
    if display == "table":
        return _table(inputs, queries)
    square = display == "images" and len(inputs.shape) == 1
    return NAMED[display](*(None if of is None else _Inputs(of, square) for of in (inputs.examples, queries)))


class _Inputs:
    """Inputs of examples as arrays, one read at a time; flat ones as square pictures where that is asked for."""

    def __init__(self, examples: Examples, square: bool = False) -> None:
        self.examples, self.square = examples, square
        first = self[0]
        self.shape = None if first is None else first.shape

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> Any:
        batch = self.examples.read(np.asarray([place]))
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(inputs, Tensor):
            return None
        values = inputs[0].cpu()
        side = math.isqrt(values.numel())
        if self.square and side * side == values.numel():
            values = values.reshape(side, side)
        return values.float().numpy() if values.is_floating_point() else values.numpy()


def _table(inputs: _Inputs, queries: Examples | None) -> Table:
    assert inputs.shape is not None
    columns = [f"x{place}" for place in range(int(np.prod(inputs.shape)))]
    return Table(inputs, None if queries is None else _Inputs(queries), columns)  # pyright: ignore[reportArgumentType]


def looks(shown: Shown, places: Iterable[int], count: int) -> dict[int, Any]:
    """A look a point, in this order, until the room that the numbers of ``count`` points leave is used up."""
    found: dict[int, Any] = {}
    room = max(LEAST, BYTES - POINT_BYTES * count)
    for place in places:
        look = shown.of_train(place)
        room -= len(json.dumps(look)) + 10
        if room < 0:
            break
        found[place] = look
    return found
