"""Every exception and warning upweight can raise, as one tree.

UpweightError
├── ConfigError            an argument that cannot mean anything (also a ValueError)
├── InputError             data that cannot be scored (also a ValueError)
│   ├── EmptyDataset       nothing to train on, or nothing to ask about
│   ├── NonFiniteInput     NaN or infinity in inputs, targets, weights or parameters
│   ├── LabelError         a target of the wrong range, type or class
│   ├── ShapeError         outputs, targets, columns or losses that do not line up
│   ├── IndexOutOfRange    a training point that does not exist (also an IndexError)
│   ├── OrderError         data without a fixed order or length, or that changes from one reading to the next
│   ├── DecisionError      review decisions that cannot be followed, or are about other data
│   └── NondeterministicModel  an output that depends on chance or on the rest of the batch
├── ModelError             a model that cannot be studied: unfitted, unsupported, no tracked parameter
├── NumericalError         the arithmetic failed (also an ArithmeticError)
│   ├── NonFiniteGradient  a loss or gradient that is NaN or infinite
│   ├── IndefiniteCurvature  the Hessian is not positive definite
│   └── NotConverged       a solver or a refit ran out of iterations
├── StoreError             a file that is missing, foreign or damaged
│   ├── CorruptStore       bytes that are not those that were written
│   ├── StaleStore         another model, data set, configuration or code than the store was made of
│   ├── StoreVersion       a format this version does not read
│   ├── StoreLocked        another writer is at work
│   ├── StoreFull          no room on the disk
│   └── StoreDenied        no permission
├── ResourceError
│   └── BudgetError        the exact answer does not fit the memory budget
├── DistributedError       a rank failed, is elsewhere, or did not come (also a RuntimeError)
└── MissingExtraError      an optional library is not installed (also an ImportError)

UpweightWarning
├── NotStationaryWarning   the parameters are not at a minimum of the objective
├── ApproximationWarning   an answer is approximate where an exact one could be expected
├── SeparationWarning      classes that are separated, so that there are no finite parameters to study
├── ModeWarning            the model was in train mode and is scored in eval mode
├── UnitWarning            a number that looks as if it were in another unit
└── SignWarning            scores that run against the truth, as if they had the other sign

Every message says what was found, what was expected, and what to do next.
"""

import difflib
import os
import sys
import warnings
from collections.abc import Iterable

import numpy as np


class UpweightError(Exception):
    """Root of every error raised on purpose by this library."""


class ConfigError(UpweightError, ValueError):
    """An argument, or a combination of arguments, that cannot mean anything."""


class InputError(UpweightError, ValueError):
    """Data that cannot be scored as it stands."""


class EmptyDataset(InputError):
    """No training example, or no query."""


class NonFiniteInput(InputError):
    """NaN or infinity in inputs, targets, weights or parameters."""


class LabelError(InputError):
    """A target out of range, of the wrong type, or of an unknown class."""


class ShapeError(InputError):
    """Outputs, targets, columns or losses whose shapes do not line up."""


class IndexOutOfRange(InputError, IndexError):
    """A training point that does not exist."""


class OrderError(InputError):
    """Data without a fixed order or a known length."""


class DecisionError(InputError):
    """Review decisions that cannot be read or followed, or that are about other data."""


class NondeterministicModel(InputError):
    """An output that depends on chance, or on the other examples of its batch."""


class ModelError(UpweightError):
    """A model that cannot be studied."""


class NumericalError(UpweightError, ArithmeticError):
    """The arithmetic failed."""


class NonFiniteGradient(NumericalError):
    """A loss or a gradient that is NaN or infinite."""


class IndefiniteCurvature(NumericalError):
    """A curvature matrix that is not positive definite."""


class NotConverged(NumericalError):
    """An iteration that stopped before it reached its tolerance."""


class StoreError(UpweightError):
    """A file that is missing, foreign or damaged."""


class CorruptStore(StoreError):
    """Bytes on disk that are not those that were written."""


class StaleStore(StoreError):
    """A store made of another model, data set, configuration or code."""


class StoreVersion(StoreError):
    """A store in a format this version does not read."""


class StoreLocked(StoreError):
    """A store another writer is at work on."""


class StoreFull(StoreError):
    """No room on the disk for what is to be written."""


class StoreDenied(StoreError):
    """A folder or file that may not be read or written."""


class ResourceError(UpweightError):
    """Not enough memory, disk or time."""


class BudgetError(ResourceError):
    """The exact answer does not fit the memory budget."""


class DistributedError(UpweightError, RuntimeError):
    """A rank of torch.distributed failed, is at another question, or did not come in time."""


class MissingExtraError(UpweightError, ImportError):
    """An optional library is not installed."""


class UpweightWarning(UserWarning):
    """Root of every warning of this library."""


class NotStationaryWarning(UpweightWarning):
    """The parameters are not at a minimum of the objective."""


class ApproximationWarning(UpweightWarning):
    """An answer is approximate where an exact one could be expected: another matrix stands in, a solver stopped short."""


class SeparationWarning(UpweightWarning):
    """The classes are separated, so that the likelihood has no finite maximum."""


class ModeWarning(UpweightWarning):
    """The model was left in train mode; it is scored in eval mode and handed back as found."""


class UnitWarning(UpweightWarning):
    """A number that looks as if it were in another unit."""


class SignWarning(UpweightWarning):
    """Scores whose correlation with the truth is clearly negative."""


HOME = os.path.dirname(os.path.abspath(__file__)) + os.sep


def warn(message: str, category: type[UpweightWarning]) -> None:
    """Warn at the line outside this library that asked."""
    frame, level, caller = sys._getframe(1), 1, 1
    while frame is not None:
        level += 1
        caller = level if frame.f_code.co_filename.startswith(HOME) else caller
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=caller + 1)


def plain(value: object) -> object:
    """A NumPy scalar as the Python value it holds; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def listing(items: object, limit: int = 5) -> str:
    """Write the first few items of a collection for a message: ``3, 8, 12, … (40 in all)``."""
    found = list(items)  # type: ignore[call-overload]
    shown = ", ".join(str(item) for item in found[:limit])
    return shown if len(found) <= limit else f"{shown}, … ({len(found)} in all)"


def names_like(wanted: object, known: Iterable[str]) -> str:
    """The names that may be asked for, the one meant put first: ``one of 'a', 'b' (did you mean 'a'?)``."""
    names = list(known)
    near = difflib.get_close_matches(str(wanted).lower().replace("-", "_"), names, n=1, cutoff=0.7)
    return f"one of {', '.join(names)}{f' (did you mean {near[0]!r}?)' if near else ''}"
