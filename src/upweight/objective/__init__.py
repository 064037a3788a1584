"""What was minimised: examples, losses, penalties, measures, and the objective they make."""

from upweight.objective.data import Examples, read_examples
from upweight.objective.loss import Loss
from upweight.objective.losses import read_loss, smooth_hinge
from upweight.objective.measures import Measure, SetMeasure, read_measure
from upweight.objective.objective import Forward, Objective, plain_forward
from upweight.objective.penalties import L2, Penalty, Quadratic, read_penalty

__all__ = [
    "L2",
    "Examples",
    "Forward",
    "Loss",
    "Measure",
    "Objective",
    "Penalty",
    "Quadratic",
    "SetMeasure",
    "plain_forward",
    "read_examples",
    "read_loss",
    "read_measure",
    "read_penalty",
    "smooth_hinge",
]
