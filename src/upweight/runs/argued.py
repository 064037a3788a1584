"""Texts with what each word says for the suggested label and against the given one, from a linear model of words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from upweight.show import Shown, Tokens
from upweight.show.shown import Look, at


@dataclass(frozen=True)
class Argued(Shown):
    """Words of a text, warm where they argue for the suggested label.

        heat of word j = xⱼ(β_suggested − β_given)ⱼ, divided among its occurrences; xⱼβⱼ for a model of numbers

    What all words add up to is their part of the difference of the two scores, exactly.

    Attributes:
        vectorizer: the fitted reader of the texts.
        coefficients: (outputs, words) of the linear model on its words; one output tells two classes apart.
        sides: per training text, and per query, the rows (given, suggested) of the coefficients; None for numbers.
    """

    vectorizer: Any = None
    coefficients: Any = None
    sides: Any = None
    query_sides: Any = None

    kind = "tokens"

    @property
    def head(self) -> Look:
        return {
            "meaning": "the prediction"
            if self.sides is None
            else "the score of the suggested label over the given one's"
        }

    def of_train(self, place: int) -> Look:
        return self._argued(at(self.train, place), None if self.sides is None else self.sides[place])

    def of_query(self, place: int) -> Look | None:
        if self.query is None:
            return None
        return self._argued(at(self.query, place), None if self.query_sides is None else self.query_sides[place])

    def look(self, thing: Any) -> Look:
        return self._argued(thing, None)

    def _argued(self, text: Any, sides: Any) -> Look:
        text = "" if text is None or text != text else str(text)
        chunks, read = text.split(), self.vectorizer.build_analyzer()
        words = [read(chunk) for chunk in chunks]
        times = Counter(word for chunk in words for word in chunk)
        row = self.vectorizer.transform([text])
        shares = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        slope = self._slope(sides)
        known = self.vectorizer.vocabulary_
        heat = [
            sum(shares.get(known[w], 0.0) * slope[known[w]] / times[w] for w in chunk if w in known) for chunk in words
        ]
        return Tokens([chunks], heat=[heat]).of_train(0)

    def _slope(self, sides: Any) -> np.ndarray:
        table = self.coefficients
        if sides is None:
            return table[0]
        given, suggested = sides
        return table[0] * (suggested - given) if len(table) == 1 else table[suggested] - table[given]


def argued(model: Any, name: str, texts: tuple[Any, Any], sides: tuple[Any, Any]) -> Argued:
    """The texts of one column of the default pipeline, training rows and queries."""
    columns = model[0].output_indices_[f"text {name}"]
    vectorizer = model[0].named_transformers_[f"text {name}"][-1]
    coefficients = np.atleast_2d(model[-1].coef_)[:, columns]
    return Argued(texts[0], texts[1], vectorizer, coefficients, *sides)
