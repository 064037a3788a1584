"""A fitted model made ready for questions: settings, curvature and the inverses all questions share."""

from upweight.fitted.fitted import Fitted, prepare
from upweight.fitted.keywords import SolverSettings, StudySettings, read_settings, spelled_out
from upweight.fitted.settings import Settings
from upweight.fitted.solvers import Solver

__all__ = [
    "Fitted",
    "Settings",
    "Solver",
    "SolverSettings",
    "StudySettings",
    "prepare",
    "read_settings",
    "spelled_out",
]
