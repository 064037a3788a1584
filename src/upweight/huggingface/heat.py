"""Texts with a heat for every token: what each did to a query, for the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from upweight._typing import Int
from upweight.adapters.huggingface.sequences import Sequences
from upweight.errors import ConfigError
from upweight.objective.data import Chosen
from upweight.show import Tokens
from upweight.study import Study

HELPERS = 10
"""Training sequences whose loss the tokens of a query are shown under: its most helpful ones together."""

Words = Callable[[Int[np.ndarray, "t"]], list[str]]


@dataclass(frozen=True)
class HeatMap(Tokens):
    """Training sequences and queries as tokens; the heat of a training token is its share of the effect on the query chosen.

    Attributes:
        study, asked: whom to ask, and the queries.
        most: how many pairs of a query and a training sequence are given a heat; each costs a pass over both.
    """

    study: Any = None
    asked: Any = None
    most: int = 300
    known: dict[tuple[int | None, int], Any] = field(default_factory=dict, repr=False, compare=False)

    def of_pair(self, query: int | None, place: int) -> dict[str, Any] | None:
        """The heat of a training sequence's tokens for one query, or for the mean of all (None)."""
        key = (query, place)
        if key not in self.known:
            if len(self.known) >= self.most:
                return None
            self.known[key] = self._heat(query, place)
        look = self._warm(self.train[place], self.known[key])
        return {name: look[name] for name in ("heat", "top")}

    def _heat(self, query: int | None, place: int) -> np.ndarray:
        """The effect at output t − 1 belongs to token t, which it predicts; the first token is predicted by nothing."""
        which = self.study.objective.examples.ids[place : place + 1]
        asked = self.asked if query is None else Chosen(self.asked, np.asarray([query]))
        values = self.study.token_effects(asked, which).values[:, 0].mean(0)
        return np.concatenate([[0.0], values])[: len(self.train[place])]


def heat_map(study: Study, query: Any, tokenizer: Any = None, *, most: int = 300) -> HeatMap:
    """How a report shows training sequences and queries: as tokens, coloured by what each does to the query.

    Beside a query, a training token's heat is the rise of the query's loss if its label were left out of training; a query's
    tokens carry the rise of their own loss if its ten most helpful sequences were.

    Args:
        study: of ``uw.huggingface.causal_lm``.
        query: as for ``study.report``.
        tokenizer: of transformers, or a callable from tokens to texts; the numbers of the tokens by default.
        most: pairs of a query and a training sequence that are given a heat.

    Returns:
        A HeatMap, for ``study.report(path, query=query, display=...)``.

    Raises:
        ConfigError: a study of something else than sequences with a label a token.

    Error and cost:
        First order. One pass of both for every pair on the page.
    """
    examples = study.objective.examples
    if not isinstance(examples, Sequences) or study.objective.loss.kind != "tokens":
        raise ConfigError("heat_map found a study of other data. Expected one of uw.huggingface.causal_lm.")
    asked = study.fitted.adapted.codec.read(query, "query")
    assert isinstance(asked, Sequences)
    words = _words(tokenizer)
    train, queries = (_Texts(part, words) for part in (examples, asked))
    effects = study.drop(asked, order="first")
    heats = []
    for place, row in enumerate(effects.values):
        helpers = np.argsort(-row)[:HELPERS]
        own = study.token_effects(Chosen(asked, np.asarray([place])), examples.ids[helpers], of="query")
        heats.append(np.concatenate([[0.0], own.values[0].sum(0)])[: len(asked.tokens(place))])
    meaning = "the query's loss, were it not learnt"
    return HeatMap(train, queries, None, heats, meaning, study, asked, most)


class _Texts(Sequence[Any]):
    """The tokens of sequences as texts, made when they are asked for."""

    def __init__(self, sequences: Sequences, words: Words) -> None:
        self.sequences, self.words = sequences, words

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, place: Any) -> Any:
        return self.words(self.sequences.tokens(int(place)))


def _words(tokenizer: Any) -> Words:
    if tokenizer is None:
        return lambda tokens: [str(token) for token in tokens.tolist()]
    if hasattr(tokenizer, "decode"):
        return lambda tokens: [tokenizer.decode([token]) for token in tokens.tolist()]
    return lambda tokens: list(tokenizer(tokens))
