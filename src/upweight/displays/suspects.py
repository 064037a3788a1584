"""Self-influence against loss, with the first suspects named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from upweight.displays.axes import HURT, PLAIN, axes_or_new, plain_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass
class SuspectsDisplay:
    """Scatter of the training points that ``study.mislabeled`` returned.

    Attributes:
        loss, self_influence: (k,).
        names: of the points.
        disagrees: (k,) where the model predicts another label; None without labels.
        ax_, figure_, dots_: what ``plot`` drew, one set of dots an agreement.
    """

    loss: np.ndarray
    self_influence: np.ndarray
    names: list[str]
    disagrees: np.ndarray | None = None
    ax_: Axes = field(init=False, repr=False)
    figure_: Figure | Any = field(init=False, repr=False)
    dots_: list[Any] = field(init=False, repr=False)

    @classmethod
    def from_mislabeled(cls, suspects: pd.DataFrame, *, named: int = 5, ax: Axes | None = None) -> SuspectsDisplay:
        """Draw the frame of ``study.mislabeled(k)``, the first ``named`` of it with their names."""
        disagrees = (
            (suspects["label"] != suspects["predicted"]).to_numpy() if {"label", "predicted"} <= set(suspects) else None
        )
        made = cls(
            suspects["loss"].to_numpy(),
            suspects["self_influence"].to_numpy(),
            [plain_text(name, 24) for name in suspects["train"]],
            disagrees,
        )
        return made.plot(ax=ax, named=named)

    def plot(self, *, ax: Axes | None = None, named: int = 5) -> SuspectsDisplay:
        """Draw into these axes, or into a new figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        self.ax_ = axes = axes_or_new(ax, (5.0, 4.0))
        self.figure_ = axes.figure
        agree = np.zeros(len(self.loss), dtype=bool) if self.disagrees is None else self.disagrees
        kinds = [(~agree, "o", PLAIN, "model agrees"), (agree, "^", HURT, "model disagrees")]
        self.dots_ = [
            axes.scatter(
                self.loss[of], self.self_influence[of], s=18, alpha=0.7, marker=marker, color=colour, label=label
            )
            for of, marker, colour, label in kinds
            if of.any()
        ]
        for place in range(min(named, len(self.names))):
            axes.annotate(
                self.names[place],
                (self.loss[place], self.self_influence[place]),
                textcoords="offset points",
                xytext=(4, 3),
                fontsize=7,
            )
        axes.set_xlabel("loss")
        axes.set_ylabel("self-influence")
        if self.disagrees is not None:
            axes.legend(fontsize=8, frameon=False)
        return self
