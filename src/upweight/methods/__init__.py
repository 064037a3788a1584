"""Methods known by name, each a composition of the public algebra: ``docs/methods.md`` is their table.

Scores are (m queries, n training points) as their papers define them, for the loss or the margin of each query:
positive means that training on the point lowers the query's loss. They are rankings; none but the first-order effect has a unit.
"""

from upweight.methods.averaged import datainf
from upweight.methods.checkpoints import Adam, at, less, tracin
from upweight.methods.likeness import bm25, representation_similarity
from upweight.methods.products import grad_cos, grad_dot, relatif
from upweight.methods.projected import logra, trackstar, trak
from upweight.methods.segments import source
from upweight.methods.tail_patch import tail_patch

__all__ = [
    "Adam",
    "at",
    "bm25",
    "datainf",
    "grad_cos",
    "grad_dot",
    "less",
    "logra",
    "relatif",
    "representation_similarity",
    "source",
    "tail_patch",
    "tracin",
    "trackstar",
    "trak",
]
