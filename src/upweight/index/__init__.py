"""Compressed gradients on disk, built once, and questions answered from them."""

from upweight.index.index import Index
from upweight.index.info import IndexInfo
from upweight.index.ranking import Ranking

__all__ = ["Index", "IndexInfo", "Ranking"]
