"""The shape letters used in every annotation, and the types that carry them.

n training examples · m queries · k changes · b examples of a batch · p parameters
o outputs of one example · i inputs of one example (a constant 1 included where there is a bias)
s positions that share a weight · q coordinates of one layer · r results, or ranks · g gauge directions
c components of a measure · x, y, j whatever the line at hand names
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

Batch = Any
"""A tensor, or a tuple, list or dict of tensors, whose leading axis is examples."""

Index = int | str | slice | Sequence[Any] | np.ndarray
"""One training point or several, by position or by id."""

__all__ = ["Batch", "Bool", "Float", "Index", "Int", "Tensor"]
