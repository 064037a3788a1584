"""What helped and what hurt one query."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from upweight.displays.axes import HELPED, HURT, axes_or_new, plain_text
from upweight.errors import ConfigError, IndexOutOfRange, listing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Scored(Protocol):
    """What is drawn of effects: a number for every query and change."""

    @property
    def values(self) -> np.ndarray: ...
    @property
    def query_ids(self) -> np.ndarray: ...
    @property
    def train_ids(self) -> np.ndarray: ...
    @property
    def measure(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def question(self) -> str: ...


@dataclass
class EffectsDisplay:
    """Bars of the changes that raise a measurement most, and of those that lower it most.

    Attributes:
        values: (bars,) effects, the largest first.
        names: of the training points, one a bar.
        label: what the bars are, with their unit.
        title: which query.
        ax_, figure_, bars_: what ``plot`` drew.
    """

    values: np.ndarray
    names: list[str]
    label: str
    title: str = ""
    ax_: Axes = field(init=False, repr=False)
    figure_: Figure | Any = field(init=False, repr=False)
    bars_: Any = field(init=False, repr=False)

    @classmethod
    def from_effects(cls, effects: Scored, *, query: Any = None, k: int = 8, ax: Axes | None = None) -> EffectsDisplay:
        """Draw one row of effects.

        Args:
            query: its id; the first row by default.
            k: bars on either side.

        Raises:
            IndexOutOfRange: no such query.
            ConfigError: k below 1.
        """
        if k < 1:
            raise ConfigError(f"EffectsDisplay found k={k}. Expected at least 1: bars on either side.")
        names = effects.query_ids.tolist()
        if query is not None and query not in names:
            raise IndexOutOfRange(f"no query is called {query!r}. Expected one of {listing(names)}.")
        row = effects.values[0 if query is None else names.index(query)]
        order = np.argsort(-row, kind="stable")
        top, bottom = order[:k], order[::-1][:k]
        places = np.concatenate([top[row[top] > 0], bottom[row[bottom] < 0][::-1]])
        label = f"change in {plain_text(effects.measure)} ({plain_text(effects.unit)})"
        made = cls(
            row[places],
            [plain_text(effects.train_ids[place], 24) for place in places],
            label,
            f"query {plain_text(names[0] if query is None else query)}: {effects.question.replace('_', ' ')}",
        )
        return made.plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> EffectsDisplay:
        """Draw into these axes, or into a new figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        self.ax_ = axes = axes_or_new(ax, (5.2, 0.8 + 0.24 * max(4, len(self.values))))
        self.figure_ = axes.figure
        heights = np.arange(len(self.values))[::-1]
        colours = [HELPED if value > 0 else HURT for value in self.values]
        self.bars_ = axes.barh(heights, self.values, color=colours, height=0.75)
        axes.set_yticks(heights, self.names, fontsize=8)
        axes.axvline(0.0, color="#888888", linewidth=0.8)
        axes.set_xlabel(self.label)
        axes.set_title(self.title, fontsize=10)
        return self
