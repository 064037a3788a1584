"""How a point looks to a person: pictures, texts, tokens, rows of a table, series."""

from upweight.show.images import Images
from upweight.show.numbers import Series, Table
from upweight.show.shown import Shown
from upweight.show.words import Text, Tokens

__all__ = ["Images", "Series", "Shown", "Table", "Text", "Tokens"]
