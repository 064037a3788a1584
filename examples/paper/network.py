"""The paper's tanh network of section 4.2, trained on a tenth of MNIST and stopped before it converges."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pictures import pictures
from torch import nn

import upweight as uw
from upweight.evaluate import Retraining, Training

DECAY, DAMPING = 0.001, 0.01
"""The paper's weight decay, and what it adds to the Hessian."""


def build(channels: int) -> nn.Module:
    """Six convolutions, two of them of stride two, a mean over positions and a linear map; 2,616 parameters at 8 channels."""
    layers: list[nn.Module] = []
    for place, stride in enumerate((1, 2, 1, 2, 1)):
        layers += [nn.Conv2d(channels if place else 1, channels, 3, stride, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(channels, 10, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 10))  # fmt: skip


@dataclass
class Unconverged:
    """A network where training left it, and how it goes on."""

    training: Training
    study: uw.Study
    query: tuple[torch.Tensor, torch.Tensor]
    loss: float


SIZES = {"tiny": ("digits", 300, 4, 1_200), "small": ("digits", 1_000, 8, 4_000), "full": ("mnist", 5_500, 8, 20_000)}
"""Data, training points, channels, and steps of Adam in batches of a tenth of the points."""


def unconverged(size: str, folder: Path, more: int, curvature: str) -> Unconverged:
    """Trained once and kept in the folder; ``training`` goes on from there for ``more`` steps."""
    name, count, channels, steps = SIZES[size]
    X, y = pictures(name)
    side = int(X.shape[1] ** 0.5)
    pixels = torch.as_tensor(X, dtype=torch.float32).view(-1, 1, side, side)
    labels = torch.as_tensor(y)
    if name == "mnist":
        pixels = nn.functional.avg_pool2d(pixels, 2)  # 14 × 14: a quarter of the work, the same parameters
    optimizer = functools.partial(torch.optim.Adam, lr=1e-2, weight_decay=DECAY)
    schedule = functools.partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[steps // 2, 3 * steps // 4])
    make = functools.partial(build, channels)
    data = (pixels[:count], labels[:count])
    first = Training(make, data, "cross_entropy", optimizer, steps // 10, count // 10, schedule)
    state = Retraining(first, folder=folder)(first.equal_weights, seed=0)
    net = first.model(state)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(net(pixels), labels, reduction="none")
    hardest = count + int(losses[count:].argmax())
    study = uw.Study(net, data, loss="cross_entropy", penalty=uw.L2(DECAY), curvature=curvature, damping=DAMPING)
    slow = functools.partial(torch.optim.Adam, lr=1e-4, weight_decay=DECAY)
    goes_on = replace(first, optimizer=slow, epochs=more // 10, schedule=None, start=state)
    query = (pixels[hardest : hardest + 1], labels[hardest : hardest + 1])
    return Unconverged(goes_on, study, query, float(losses[:count].mean()))
