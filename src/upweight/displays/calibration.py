"""Refitted against predicted changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from upweight.displays.axes import PLAIN, QUIET, axes_or_new, plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Compared(Protocol):
    """What is drawn of a calibration: changes predicted and seen, in one unit."""

    @property
    def predicted(self) -> np.ndarray: ...
    @property
    def refitted(self) -> np.ndarray: ...
    @property
    def measure(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def after(self) -> str: ...
    @property
    def slope(self) -> float: ...
    @property
    def pearson(self) -> float: ...


@dataclass
class CalibrationDisplay:
    """Scatter of what really refitting did against what was predicted, with the line on which they agree.

    Attributes:
        predicted, refitted: (m, refits), in the unit of the measure.
        measure, unit: what was measured.
        title: slope and correlation.
        after: what was done, in words.
        ax_, figure_, line_, dots_: what ``plot`` drew.
    """

    predicted: np.ndarray
    refitted: np.ndarray
    measure: str
    unit: str
    title: str = ""
    after: str = "really refitting"
    ax_: Axes = field(init=False, repr=False)
    figure_: Figure | Any = field(init=False, repr=False)
    line_: Any = field(init=False, repr=False)
    dots_: Any = field(init=False, repr=False)

    @classmethod
    def from_calibration(cls, calibration: Compared, *, ax: Axes | None = None) -> CalibrationDisplay:
        """Draw what ``study.check`` returned."""
        title = f"slope {calibration.slope:.3f} · Pearson {calibration.pearson:.4f}"
        made = cls(
            calibration.predicted, calibration.refitted, calibration.measure, calibration.unit, title, calibration.after
        )
        return made.plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> CalibrationDisplay:
        """Draw into these axes, or into a new figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        self.ax_ = axes = axes_or_new(ax, (4.6, 4.2))
        self.figure_ = axes.figure
        ends = [min(self.predicted.min(), self.refitted.min()), max(self.predicted.max(), self.refitted.max())]
        (self.line_,) = axes.plot(ends, ends, color=QUIET, linewidth=1, zorder=1)
        self.dots_ = axes.scatter(self.predicted, self.refitted, s=9, alpha=0.5, linewidths=0, color=PLAIN, zorder=2)
        axes.set_xlabel(f"predicted change in {plain_text(self.measure)} ({plain_text(self.unit)})")
        axes.set_ylabel(f"change after {plain_text(self.after)}")
        axes.locator_params(nbins=5)
        axes.set_title(self.title, fontsize=10)
        return self
