"""Figures in matplotlib, by scikit-learn's convention: made by ``from_...``, drawn by ``plot(ax=)``, kept in ``ax_`` and ``figure_``."""

from upweight.displays.calibration import CalibrationDisplay
from upweight.displays.effects import EffectsDisplay
from upweight.displays.suspects import SuspectsDisplay

__all__ = ["CalibrationDisplay", "EffectsDisplay", "SuspectsDisplay"]
