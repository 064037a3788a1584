"""Likeness without gradients, to be beaten: of words, and of what a layer is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from upweight._typing import Float, Tensor
from upweight.errors import EmptyDataset
from upweight.gradients.features import features
from upweight.methods.checkpoints import cosines
from upweight.objective import Objective


def bm25(
    documents: Sequence[Sequence[Hashable]], queries: Sequence[Sequence[Hashable]], k1: float = 1.5, b: float = 0.75
) -> np.ndarray:
    """Okapi BM25 of queries and documents given as words or tokens, (m, n).

        Σ_{t ∈ q} log(1 + (n − n_t + ½)/(n_t + ½)) · f_t(k₁ + 1)/(f_t + k₁(1 − b + b·|d|/mean|d|))

    Raises:
        EmptyDataset: no document.
    """
    if not len(documents):
        raise EmptyDataset("bm25 found no document. Expected at least one sequence of words.")
    counts, lengths = [Counter(words) for words in documents], np.asarray([len(words) for words in documents], float)
    holding = Counter(word for count in counts for word in count)
    even = k1 * (1 - b + b * lengths / max(lengths.mean(), np.finfo(float).tiny))
    scores = np.zeros((len(queries), len(documents)))
    for row, words in zip(scores, queries, strict=True):
        for word, times in Counter(words).items():
            often = np.asarray([count[word] for count in counts], float)
            rare = np.log1p((len(documents) - holding[word] + 0.5) / (holding[word] + 0.5))
            row += times * rare * often * (k1 + 1) / (often + even)
    return scores


def representation_similarity(objective: Objective, query: Any, layer: str) -> Float[Tensor, "m n"]:
    """Cosine of what a layer is given for query and training point: the last layer's inputs are the usual representation."""
    return cosines(features(objective, query, layer), features(objective, None, layer))
