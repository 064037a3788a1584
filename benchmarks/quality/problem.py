"""The settings: data, network and how it is trained. NumPy and torch alone, so that every library's environment reads the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from measured import DATA
from torch import nn

QUERIES = 100
"""Queries that scores are judged on; the tuning queries are others."""

ALPHA = 0.5
"""Share of the training set that a subset keeps."""

FIRST = 1000
"""Seed of the first model trained on everything; no retraining of the truth uses it or a later one."""

CHECKPOINTS = 6
"""Evenly spaced over a run, the end included."""

WORDS = 2000
"""Words of the vocabulary of reviews."""

Data = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Problem:
    """A data set, a perceptron, and the run that fits it.

    Attributes:
        sizes: widths of the layers, inputs first.
        rate, decay, batch, epochs: of SGD with momentum .9, which drops no last batch.
        damping: λ that the ASTRA paper chose here, or ours where it has no such setting.
        count: models trained on everything.
        stacks: whether retrainings are taken many at once.
        texts: words of training documents and of queries, for BM25.
    """

    name: str
    title: str
    train: Data
    query: Data
    tuning: Data
    sizes: tuple[int, ...]
    rate: float
    decay: float
    batch: int
    epochs: int
    damping: float
    count: int
    stacks: bool
    texts: tuple[list[list[str]], list[list[str]]] | None = None

    @property
    def loss(self) -> str:
        """By its name in upweight."""
        return "squared_error" if self.sizes[-1] == 1 else "cross_entropy"

    @property
    def measure(self) -> str:
        """Of queries: the prediction of a regression, else the loss."""
        return "prediction" if self.loss == "squared_error" else "loss"

    @property
    def folder(self) -> Path:
        """Where models and scores are kept; not part of the repository."""
        return DATA / "quality" / self.name

    def build(self) -> nn.Module:
        """The network, its parameters drawn by torch."""
        layers: list[nn.Module] = []
        for a, b in pairwise(self.sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def states(self, what: str, count: int) -> list[dict[str, torch.Tensor]]:
        """Kept state dicts, 'models' or 'checkpoints' of the first model."""
        kept = np.load(self.folder / f"{what}.npz")
        names = list(self.build().state_dict())
        return [{name: torch.as_tensor(kept[f"{k}.{name}"]) for name in names} for k in range(count)]

    def models(self, count: int = 1) -> list[nn.Module]:
        """The first models trained on everything."""
        return [loaded(self.build(), state) for state in self.states("models", count)]


def loaded(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """The model with these parameters, in eval mode."""
    model.load_state_dict(state)
    return model.eval()


def each_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """ℓ of every example, (b,): ½(f − y)² of one output, else cross-entropy."""
    if outputs.shape[-1] == 1:
        return (outputs - targets).square().sum(1) / 2
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def concrete() -> Problem:
    """1,030 mixtures of concrete and their strength, standardised."""
    table = np.load(DATA / "concrete.npz")
    order = np.random.default_rng(0).permutation(len(table["y"]))
    X, y = table["X"][order], table["y"][order][:, None]
    X = (X - X[:896].mean(0)) / X[:896].std(0)
    y = (y - y[:896].mean()) / y[:896].std()
    parts = _cut(torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32), 896)
    return Problem(
        "concrete", "Concrete, 896 mixtures", *parts, (8, 128, 128, 128, 1), 3e-2, 1e-5, 32, 20, 0.0017, 30, True
    )  # fmt: skip


def mnist() -> Problem:
    """6,144 of the digits, as in the papers of ASTRA and SOURCE."""
    return _pictures("mnist", "MNIST, 6,144 digits", 6144, (512, 256, 128), count=3)


def mnist2k() -> Problem:
    """A third of them, and a smaller net."""
    return _pictures("mnist2k", "MNIST, 2,048 digits", 2048, (128, 64), count=10)


def fashion() -> Problem:
    """6,144 of the pictures, as in the papers of ASTRA and SOURCE."""
    return _pictures("fashion", "FashionMNIST, 6,144 pictures", 6144, (512, 256, 128), count=3)


def fashion2k() -> Problem:
    """A third of them, and a smaller net."""
    return _pictures("fashion2k", "FashionMNIST, 2,048 pictures", 2048, (128, 64), count=10)


TRAINING = 4000
"""Reviews of the data set's own training part."""


def reviews() -> Problem:
    """2,048 reviews of food, great or not, as logarithms of word counts."""
    table = np.load(DATA / "reviews.npz")
    words = [
        re.findall(r"[a-z']+", re.sub(r"<[^>]*>", " ", text.lower())) for text in table["texts"][:TRAINING].tolist()
    ]
    order = np.random.default_rng(0).permutation(len(words))[: 2048 + 2 * QUERIES]
    words = [words[k] for k in order]
    known = Counter(word for one in words[:2048] for word in set(one)).most_common(WORDS)
    places = {word: k for k, (word, _) in enumerate(known)}
    X = torch.zeros(len(words), WORDS)
    for row, one in zip(X, words, strict=True):
        for word, times in Counter(one).items():
            if word in places:
                row[places[word]] = np.log1p(times)
    y = torch.as_tensor(table["great"][order].astype(np.int64))
    texts = words[:2048], words[2048 : 2048 + QUERIES]
    title = "Food reviews, 2,048 texts"
    return Problem("reviews", title, *_cut(X, y, 2048), (WORDS, 64, 2), 3e-2, 1e-3, 64, 10, 0.005, 30, False, texts)


def _pictures(name: str, title: str, n: int, hidden: tuple[int, ...], count: int) -> Problem:
    table = np.load(DATA / f"{name.removesuffix('2k')}.npz")
    order = np.random.default_rng(0).permutation(len(table["labels"]))[: n + 2 * QUERIES]
    X = torch.as_tensor(table["images"][order].astype(np.float32) / 255)
    y = torch.as_tensor(table["labels"][order].astype(np.int64))
    return Problem(name, title, *_cut(X, y, n), (784, *hidden, 10), 3e-2, 1e-3, 64, 20, 0.0052, count, False)


def _cut(X: torch.Tensor, y: torch.Tensor, n: int) -> tuple[Data, Data, Data]:
    """Training set, queries, and the queries after them for tuning."""
    ends = (0, n), (n, n + QUERIES), (n + QUERIES, n + 2 * QUERIES)
    first, second, third = ((X[a:b], y[a:b]) for a, b in ends)
    return first, second, third


PROBLEMS: dict[str, Callable[[], Problem]] = {
    one.__name__: one for one in (concrete, mnist2k, fashion2k, reviews, mnist, fashion)
}
