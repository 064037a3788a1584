"""What the room's functions are given, read as numbers: anything else is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from upweight.errors import ConfigError, InputError
from upweight.fitted import Fitted


def read_numbers(values: Any, what: str) -> np.ndarray:
    """An array of floats.

    Raises:
        InputError: not numbers, or rows of different lengths.
    """
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "biufO":
            raise TypeError(f"of type {found.dtype}")
        return found.astype(float)  # never the caller's own array
    except (TypeError, ValueError, RuntimeError) as reason:
        first = str(reason).splitlines()[0]
        raise InputError(
            f"found {what} that are no array of numbers ({type(values).__name__}: {first}). Expected numbers in rows of one length; detach tensors and move them to the CPU."
        ) from reason


def read_count(value: Any, name: str, least: int | None = 1) -> int:
    """A whole number, of at least the least where there is one.

    Raises:
        ConfigError: anything else.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ConfigError(f"found {name}={value!r}. Expected a whole number{bound}.")
    return int(value)


def read_share(value: Any, name: str) -> float:
    """A number; bounds are the caller's.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ConfigError(f"found {name}={value!r}. Expected a number.")
    return float(value)


def read_seeds(seeds: Any) -> tuple[int, ...]:
    """A number of seeds, counted from zero, or the seeds.

    Raises:
        ConfigError: neither.
    """
    if isinstance(seeds, int | np.integer):
        return tuple(range(read_count(seeds, "seeds", None)))
    try:
        return tuple(read_count(seed, "seed", None) for seed in seeds)  # pyright: ignore
    except TypeError as reason:
        raise ConfigError(f"found seeds={seeds!r}. Expected how many there are, or a list of them.") from reason


def fitted_of(study: Any, asked: str) -> Fitted:
    """What a study holds.

    Raises:
        ConfigError: no study.
    """
    found = getattr(study, "fitted", None)
    if not isinstance(found, Fitted):
        raise ConfigError(
            f"{asked} found {type(study).__name__} for its study. Expected a uw.Study, as uw.from_sklearn(fitted, X, y) returns it."
        )
    return found
