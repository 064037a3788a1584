"""The answer of an index: both ends of every query's ranking, labelled and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from upweight.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Ranking:
    """The training points whose leaving out raises, and lowers, each measurement most.

    Attributes:
        query_ids: (m,) names of the queries.
        top_ids, top: (m, k), the k points whose leaving out raises the measurement most, in falling order, and by
            how much, in ``unit``. For a loss these help.
        bottom_ids, bottom: (m, k), those whose leaving out lowers it most, in rising order. For a loss these harm.
        certified: (m, 2), whether the k at the top, and at the bottom, are certain to be the k of the uncompressed
            method, whatever their order; None where that was not asked.
        measure, unit: what was measured and in what unit.
        order: 'first', as an index is a sum over parameters.
        protocol: 'fixed_mean' or 'fixed_total', what happens to the penalty.
        verdict: how the curvature was inverted, and what the index keeps, in words.
        notes: what else a reader must know.
    """

    query_ids: np.ndarray
    top_ids: np.ndarray
    top: np.ndarray
    bottom_ids: np.ndarray
    bottom: np.ndarray
    certified: np.ndarray | None
    measure: str
    unit: str
    protocol: str
    verdict: str
    notes: tuple[str, ...] = ()
    order: str = "first"

    def __len__(self) -> int:
        return len(self.query_ids)

    def __repr__(self) -> str:
        m, k = self.top.shape
        words = self.measure if self.unit == self.measure else f"{self.measure} ({self.unit})"
        lines = [
            f"Ranking of the {k} training points at each end for {m} {'query' if m == 1 else 'queries'}: the predicted change in {words} if each is left out.",
            f"First order, protocol {self.protocol}.",
            f"{self.verdict[:1].upper()}{self.verdict[1:]}.",
            *([self._certainty()] if self.certified is not None else []),
            *(f"{note}." for note in self.notes),
        ]
        return "\n".join(lines)

    def _certainty(self) -> str:
        assert self.certified is not None
        k, sure = self.top.shape[1], int(self.certified.sum())
        if self.certified.all():
            return f"Certified: these {k} are the {k} of the uncompressed method, at both ends of every query."
        return f"Certified at {sure} of {self.certified.size} ends; at the others two points are too close to be told apart."

    def helpful(self, k: int | None = None) -> pd.DataFrame:
        """The k most helpful points of every query, fewer where fewer help: without them its loss would be higher."""
        self._require_loss()
        return self._side("top", k)

    def harmful(self, k: int | None = None) -> pd.DataFrame:
        """The k most harmful points of every query, fewer where fewer harm: without them its loss would be lower."""
        self._require_loss()
        return self._side("bottom", k)

    def raises(self, k: int | None = None) -> pd.DataFrame:
        """The k points whose leaving out raises each measurement most, fewer where fewer raise it."""
        return self._side("top", k)

    def lowers(self, k: int | None = None) -> pd.DataFrame:
        """The k points whose leaving out lowers each measurement most, fewer where fewer lower it."""
        return self._side("bottom", k)

    def to_pandas(self) -> pd.DataFrame:
        """Both ends in one frame: query, end, rank, train, effect, and certified where that was asked."""
        import pandas as pd

        ends = {"top": self._frame("top", None), "bottom": self._frame("bottom", None)}
        return pd.concat([frame.assign(end=end) for end, frame in ends.items()], ignore_index=True)

    def _require_loss(self) -> None:
        if self.measure != "loss":
            raise ConfigError(
                f"helpful() and harmful() found {self.measure!r}. Expected measure='loss'; use raises() or lowers()."
            )

    def _side(self, end: str, k: int | None) -> pd.DataFrame:
        found = self._frame(end, k)
        sign = 1.0 if end == "top" else -1.0
        return found.loc[sign * found["effect"] > 0].reset_index(drop=True)

    def _frame(self, end: str, k: int | None) -> pd.DataFrame:
        import pandas as pd

        held = self.top.shape[1]
        if k is not None and not 1 <= k <= held:
            raise ConfigError(
                f"a ranking found k={k}. Expected 1 to {held}, what was asked of the index; ask it for more."
            )
        kept = held if k is None else k
        ids: np.ndarray = getattr(self, f"{end}_ids")[:, :kept]
        columns: dict[str, Any] = {
            "query": np.repeat(self.query_ids, kept),
            "rank": np.tile(np.arange(1, kept + 1), len(self)),
            "train": ids.ravel(),
            "effect": getattr(self, end)[:, :kept].ravel(),
        }
        if self.certified is not None:
            columns["certified"] = np.repeat(self.certified[:, int(end == "bottom")], kept)
        return pd.DataFrame(columns)
