"""Ten-class softmax regression on 9,000 real digits, p = 7,850, converged in float64; 100 queries. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from measured import DATA

CLASSES, PENALTY, TRAIN, QUERIES = 10, 0.01, 9000, 100
FITTED = DATA / "softmax.npz"


@dataclass(frozen=True)
class Problem:
    """Training data, queries, and the fitted weight (10, 784) and bias (10,)."""

    X: np.ndarray
    y: np.ndarray
    Xt: np.ndarray
    yt: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


def load() -> Problem:
    """The problem as the truth fitted it."""
    digits, fitted = np.load(DATA / "mnist.npz"), np.load(FITTED)
    order = np.random.default_rng(0).permutation(len(digits["labels"]))
    X, y = digits["images"][order].astype(np.float64) / 255, digits["labels"][order].astype(np.int64)
    train, query = slice(0, TRAIN), slice(TRAIN, TRAIN + QUERIES)
    return Problem(X[train], y[train], X[query], y[query], fitted["weight"], fitted["bias"])


def torch_problem(dtype):
    """The fitted model with its data as tensors: (model, X, y, Xt, yt)."""
    import torch

    problem = load()
    model = torch.nn.Linear(784, CLASSES).to(dtype).eval()
    with torch.no_grad():
        model.weight.copy_(torch.as_tensor(problem.weight))
        model.bias.copy_(torch.as_tensor(problem.bias))
    arrays = (problem.X, problem.y, problem.Xt, problem.yt)
    return model, *(torch.as_tensor(a, dtype=dtype) if a.dtype == float else torch.as_tensor(a) for a in arrays)


def plain_epoch(model, X, y):
    """One plain forward and backward pass over the training set."""
    import torch

    def step():
        torch.nn.functional.cross_entropy(model(X), y).backward()
        model.zero_grad()

    return step
