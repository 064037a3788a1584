"""Texts, and tokens with a number each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from upweight.errors import ShapeError
from upweight.show.shown import Look, Shown, at

EXCERPT = 1_200
"""Characters of a text that the page carries: what a person reads before deciding."""

TOKENS = 400
"""Tokens of a text that the page carries."""


@dataclass(frozen=True)
class Text(Shown):
    """Texts, shown up to 1,200 characters each, with the number of characters left out."""

    kind = "text"

    def look(self, thing: Any) -> Look:
        text = "" if thing is None or thing != thing else str(thing)
        left = len(text) - EXCERPT
        return {"text": text[:EXCERPT], **({"left": left} if left > 0 else {})}


@dataclass(frozen=True)
class Tokens(Shown):
    """Tokens with a heat each: texts as lists of tokens, and beside them as many numbers.

    Positive heat is drawn in the colour of what raises, negative in that of what lowers; the thickness of the
    underline says the same as the colour. Each text has a scale of its own, which its largest heat sets.

    Attributes:
        heat, query_heat: one number a token, for every text; None draws the tokens alone.
        meaning: what heat raises, in a few words, such as "the score of 'positive'".
    """

    heat: Any = None
    query_heat: Any = None
    meaning: str = ""

    kind = "tokens"

    @property
    def head(self) -> Look:
        return {"meaning": self.meaning}

    def of_train(self, place: int) -> Look:
        return self._warm(at(self.train, place), None if self.heat is None else at(self.heat, place))

    def of_query(self, place: int) -> Look | None:
        if self.query is None:
            return None
        return self._warm(at(self.query, place), None if self.query_heat is None else at(self.query_heat, place))

    def look(self, thing: Any) -> Look:
        return self._warm(thing, None)

    def _warm(self, tokens: Any, heat: Any) -> Look:
        words = [str(token)[:EXCERPT] for token in tokens]
        shown: Look = {"tokens": words[:TOKENS]}
        if len(words) > TOKENS:
            shown["left"] = len(words) - TOKENS
        if heat is None:
            return shown
        numbers = np.asarray(heat, dtype=float)
        if numbers.shape != (len(words),):
            raise ShapeError(
                f"display=Tokens found {numbers.size} heats for {len(words)} tokens. Expected one number a token."
            )
        top = float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0))
        return shown | {
            "heat": [float(f"{value:.3g}") if np.isfinite(value) else 0.0 for value in numbers[:TOKENS]],
            "top": top,
        }
