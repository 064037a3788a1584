"""Where figures are drawn, and in which colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upweight.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HELPED, HURT, PLAIN, QUIET = "#0072b2", "#d55e00", "#1f5fa8", "#888888"
"""Blue and vermilion, which people who confuse red and green tell apart."""


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure of this size in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError(
            "plot() needs matplotlib, which is not installed. Install it with: pip install 'upweight[plot]'"
        ) from error
    return plt.subplots(figsize=size)[1]


def plain_text(words: object, length: int = 40) -> str:
    """Data as a label: short, and without signs that matplotlib would read as formulas."""
    text = str(words).replace("\n", " ").replace("$", r"\$")
    return text if len(text) <= length else f"{text[: length - 1]}…"
