"""I_up,params as a labelled table: one row a training point, one column a coordinate of θ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class ParameterInfluence:
    """The derivative of every parameter in the weight of each training point, −H⁻¹∇ℓᵢ.

    Attributes:
        values: (k, p); positive means that more weight on the point raises the parameter.
        train_ids: (k,) names of the rows.
        names: (p,) names of the columns, such as ``weight[0,3]``.
        estimand: 'response', or 'newton' for gᵢ − Hᵢs in place of gᵢ.
        unit, protocol, verdict, notes: as in Effects.
    """

    values: np.ndarray
    train_ids: np.ndarray
    names: np.ndarray
    estimand: str
    unit: str
    protocol: str
    verdict: str
    notes: tuple[str, ...] = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        k, p = self.values.shape
        said = "".join(f" {note}." for note in self.notes)
        return (
            f"ParameterInfluence ({k} × {p}): the derivative of {p} parameters in the weight of {k} training point{'s' * (k != 1)}, "
            f"protocol {self.protocol}; {self.verdict}.{said}"
        )

    def to_pandas(self) -> pd.DataFrame:
        """A frame with training points as rows and parameters as columns."""
        import pandas as pd

        return pd.DataFrame(
            self.values, index=pd.Index(self.train_ids, name="train"), columns=pd.Index(self.names, name="parameter")
        )
