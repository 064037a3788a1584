"""Trainings that are retrained many times on halves of their data: perceptrons on Concrete and on a part of FashionMNIST."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from measured import DATA
from torch import nn

import upweight as uw

COUNT = 100
"""Retrainings of a row."""

KEPT = {"concrete": 100, "concrete64": 100, "fashion": 8}
"""Of how many the parameters are kept, to be held against each other."""

QUERIES = 100


def concrete() -> tuple[uw.evaluate.Training, tuple[torch.Tensor, torch.Tensor]]:
    """8-128-128-128-1 on 896 standardised mixtures, SGD for 20 epochs in batches of 32, and the other mixtures."""
    table = np.load(DATA / "concrete.npz")
    order = np.random.default_rng(0).permutation(len(table["y"]))
    train = order[:896]
    X, y = table["X"][order], table["y"][order][:, None]
    X = (X - table["X"][train].mean(0)) / table["X"][train].std(0)
    y = (y - table["y"][train].mean()) / table["y"][train].std()
    X, y = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32)
    optimizer = partial(torch.optim.SGD, lr=3e-2, momentum=0.9, weight_decay=1e-5)
    run = uw.evaluate.Training(
        partial(perceptron, 8, 128, 128, 128, 1), (X[:896], y[:896]), "squared_error", optimizer, 20, 32
    )
    return run, (X[896 : 896 + QUERIES], y[896 : 896 + QUERIES])


def concrete64() -> tuple[uw.evaluate.Training, tuple[torch.Tensor, torch.Tensor]]:
    """The same in float64, in which no rounding is large enough to switch a ReLU."""
    run, (X, y) = concrete()
    build = run.build
    return replace(run, build=lambda: build().double()), (X.double(), y.double())


def fashion() -> tuple[uw.evaluate.Training, tuple[torch.Tensor, torch.Tensor]]:
    """784-512-256-128-10 on 6,144 pictures, two of its 20 epochs, in batches of 64: a step costs as much in each of them."""
    table = np.load(DATA / "fashion.npz")
    order = np.random.default_rng(0).permutation(60_000)[:6144]
    places = np.concatenate([order, np.arange(60_000, 60_000 + QUERIES)])
    X = torch.as_tensor(table["images"][places].astype(np.float32) / 255)
    y = torch.as_tensor(table["labels"][places].astype(np.int64))
    optimizer = partial(torch.optim.SGD, lr=3e-2, momentum=0.9, weight_decay=1e-3)
    run = uw.evaluate.Training(
        partial(perceptron, 784, 512, 256, 128, 10), (X[:6144], y[:6144]), "cross_entropy", optimizer, 2, 64
    )
    return run, (X[6144:], y[6144:])


def perceptron(*sizes: int) -> nn.Module:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


TRAININGS = {"concrete": concrete, "concrete64": concrete64, "fashion": fashion}


def halves(n: int) -> np.ndarray:
    """Weights 2/n on a random half each, zero on the rest, (count, n)."""
    kept = uw.evaluate.random_subsets(n, COUNT, 0.5, seed=0)
    return kept / kept.sum(1, keepdims=True)
