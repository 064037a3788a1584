"""From changes of the training set to changes of the parameters and of measurements."""

from upweight.influence.changes import Changes, corrected
from upweight.influence.effects import Effects, load
from upweight.influence.formula import effect
from upweight.influence.newton import NewtonStep

__all__ = ["Changes", "Effects", "NewtonStep", "corrected", "effect", "load"]
