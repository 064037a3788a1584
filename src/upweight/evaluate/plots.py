"""Axes to draw on, where matplotlib is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upweight.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def new_axes(axes: Axes | None) -> Axes:
    """The axes given, or new ones.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if axes is not None:
        return axes
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError(
            "plot() needs matplotlib, which is not installed. Install it with: pip install 'upweight[plot]'"
        ) from error
    return plt.subplots(figsize=(4.6, 4.2))[1]
