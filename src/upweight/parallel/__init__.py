"""Sums over examples, here or over all ranks of torch.distributed: the only room that knows of ranks."""

from upweight.parallel.fold import HERE, Fold, Here
from upweight.parallel.join import ranks
from upweight.parallel.ranks import Ranks
from upweight.parallel.wrapped import plain_module

__all__ = ["HERE", "Fold", "Here", "Ranks", "plain_module", "ranks"]
