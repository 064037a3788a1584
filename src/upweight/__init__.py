"""upweight: what would change about a fitted model if its training data changed."""

from upweight import curvature, errors, evaluate, huggingface, linop, methods, show
from upweight.curvature import Relative
from upweight.displays import CalibrationDisplay, EffectsDisplay, SuspectsDisplay
from upweight.fitted import Solver
from upweight.frameworks import from_sklearn, from_statsmodels
from upweight.gradients import rows
from upweight.index import Index
from upweight.influence.effects import Effects, load
from upweight.influence.ensemble import over_checkpoints, over_models, spread_over_models
from upweight.influence.formula import effect
from upweight.objective.losses import smooth_hinge
from upweight.objective.penalties import L2
from upweight.objective.randomised import Randomised
from upweight.parallel import ranks
from upweight.solve.filters import Mixture, Ridge, Segment
from upweight.solve.inverse import inverse
from upweight.study import Study

__version__ = "0.1.0"

__all__ = [
    "L2",
    "CalibrationDisplay",
    "Effects",
    "EffectsDisplay",
    "Index",
    "Mixture",
    "Randomised",
    "Relative",
    "Ridge",
    "Segment",
    "Solver",
    "Study",
    "SuspectsDisplay",
    "curvature",
    "effect",
    "errors",
    "evaluate",
    "from_sklearn",
    "from_statsmodels",
    "huggingface",
    "inverse",
    "linop",
    "load",
    "methods",
    "over_checkpoints",
    "over_models",
    "ranks",
    "rows",
    "show",
    "smooth_hinge",
    "spread_over_models",
]
