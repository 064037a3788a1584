"""Networks on real digits, trained by plain SGD: a three-layer perceptron and a three-layer convolutional net. Torch alone."""

from __future__ import annotations

import numpy as np
import torch
from measured import DATA
from torch import nn

TRAIN, QUERIES, EPOCHS, BATCH = 8000, 200, {"mlp": 15, "cnn": 4, "rows": 4}, 64
BATCHES = {"mlp": 8000, "cnn": 500, "rows": 500}
"""Examples of a plain epoch's batches, for T_epoch."""


def perceptron() -> nn.Module:
    """784-512-256-10, 535,818 parameters."""
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def convolutional() -> nn.Module:
    """Three 3 × 3 convolutions with GroupNorm, then a linear head."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Rows(nn.Module):
    """An image read as 28 rows: two linear layers shared by them, the mean over rows, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(28, 48), nn.Linear(48, 32, bias=False), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.tanh(self.first(x.unflatten(1, (28, 28))))
        return self.head(torch.tanh(self.second(rows)).mean(1))


MODELS = {"mlp": perceptron, "cnn": convolutional, "rows": Rows}


def load(kind: str):
    """The fitted model with its data as tensors: (model, X, y, Xt, yt); trained once, then kept."""
    digits = np.load(DATA / "mnist.npz")
    order = np.random.default_rng(0).permutation(len(digits["labels"]))
    X = torch.as_tensor(digits["images"][order].astype(np.float32) / 255)
    y = torch.as_tensor(digits["labels"][order].astype(np.int64))
    torch.manual_seed(0)
    model, path = MODELS[kind](), DATA / f"{kind}.npz"
    if path.exists():
        kept = np.load(path)
        model.load_state_dict({name: torch.as_tensor(kept[name]) for name in kept.files})
    else:
        train(model, X[:TRAIN], y[:TRAIN], EPOCHS[kind])
        np.savez(path, **{name: value.numpy() for name, value in model.state_dict().items()})
    query = slice(TRAIN, TRAIN + QUERIES)
    return model.eval(), X[:TRAIN], y[:TRAIN], X[query], y[query]


def train(model: nn.Module, X: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    """Plain SGD, one fixed schedule."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for where in torch.randperm(len(X)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[where]), y[where]).backward()
            optimizer.step()


def plain_epoch(model: nn.Module, X: torch.Tensor, y: torch.Tensor, batch: int):
    """One plain forward and backward pass over the training set."""

    def step() -> None:
        for inputs, targets in zip(X.split(batch), y.split(batch), strict=True):
            nn.functional.cross_entropy(model(inputs), targets).backward()
        model.zero_grad(set_to_none=True)

    return step
