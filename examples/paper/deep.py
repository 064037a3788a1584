"""Frozen features: a small convolutional network trained on eight classes of FashionMNIST, asked about the two it has never seen."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pictures import pictures
from torch import nn

from upweight.evaluate import Retraining, Training

SNEAKER, BOOT = 7, 9


def build(side: int, width: int) -> nn.Module:
    """Two convolutions with pooling, and a linear layer whose ReLU is the feature; a head for the other classes."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(2 * width * (side // 4) ** 2, 8 * width), nn.ReLU(), nn.Linear(8 * width, 10),
    )  # fmt: skip


@dataclass
class Pair:
    """Two classes as pictures and as features of a network that was trained on the others.

    Attributes:
        X, y, Xt, yt: pictures (n, 1, side, side) in [0, 1] and labels 0, 1; for training and held out.
        body: the network up to its features, (b, 1, side, side) → (b, features).
    """

    X: torch.Tensor
    y: torch.Tensor
    Xt: torch.Tensor
    yt: torch.Tensor
    body: nn.Module

    def features(self, X: torch.Tensor) -> torch.Tensor:
        """Of pictures, in float64."""
        with torch.no_grad():
            return torch.cat([self.body(part) for part in X.split(500)]).double()


def shoes(name: str, each: int, held: int, others: int, epochs: int, folder: Path) -> Pair:
    """``each`` training and ``held`` held-out pictures of both classes; the network learned from ``others`` pictures of the rest."""
    first, second = (SNEAKER, BOOT) if name == "fashion" else (3, 8)
    X, y = pictures(name)
    side = int(X.shape[1] ** 0.5)
    pixels, labels = torch.as_tensor(X, dtype=torch.float32).view(-1, 1, side, side), torch.as_tensor(y)
    rest = torch.as_tensor(np.flatnonzero((y != first) & (y != second))[:others])
    adam = functools.partial(torch.optim.Adam, lr=2e-3)
    make = functools.partial(build, side, 16 if name == "fashion" else 8)
    training = Training(make, (pixels[rest], labels[rest]), "cross_entropy", adam, epochs, 64)
    net = training.model(Retraining(training, folder=folder)(training.equal_weights))
    places = [np.flatnonzero(y == label)[: each + held] for label in (first, second)]
    train = torch.as_tensor(np.concatenate([own[:each] for own in places]))
    test = torch.as_tensor(np.concatenate([own[each:] for own in places]))
    answers = (labels == second).long()
    body = nn.Sequential(*list(net)[:-1]).eval().requires_grad_(False)
    return Pair(pixels[train], answers[train], pixels[test], answers[test], body)
