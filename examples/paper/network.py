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


SIZES = {
    "small": ("digits", 300, 4, 1_500, 300),
    "full": ("mnist", 5_500, 8, 6_000, 500),
}
"""Data, training points, channels, and steps of Adam in batches of so many points."""


def unconverged(size: str, folder: Path, more: int, curvature: str) -> Unconverged:
    """Trained once and kept in the folder; ``training`` goes on from there for ``more`` steps."""
    name, count, channels, steps, batch = SIZES[size]
    X, y = pictures(name)
    side = int(X.shape[1] ** 0.5)
    pixels = torch.as_tensor(X, dtype=torch.float32).view(-1, 1, side, side)
    labels = torch.as_tensor(y)
    if name == "mnist":
        pixels = nn.functional.avg_pool2d(pixels, 2)  # 14 × 14: a quarter of the work, the same parameters
    optimizer = functools.partial(torch.optim.Adam, lr=1e-2, weight_decay=DECAY)
    schedule = functools.partial(
        torch.optim.lr_scheduler.MultiStepLR, milestones=[steps // 2, 3 * steps // 4, 7 * steps // 8]
    )
    make = functools.partial(build, channels)
    data = (pixels[:count], labels[:count])
    first = Training(make, data, "cross_entropy", optimizer, steps * batch // count, batch, schedule)
    state = Retraining(first, folder=folder)(first.equal_weights, seed=0)
    net = first.model(state)
    with torch.no_grad():
        outputs = net(pixels)
        losses = nn.functional.cross_entropy(outputs, labels, reduction="none")
    wrong = count + (outputs[count:].argmax(1) != labels[count:]).nonzero()[:, 0]
    place = int(wrong[losses[wrong].argsort()[len(wrong) // 2]])  # of middling loss among those it gets wrong
    study = uw.Study(net, data, loss="cross_entropy", penalty=uw.L2(DECAY), curvature=curvature, damping=DAMPING)
    slow = functools.partial(torch.optim.Adam, lr=1e-3, weight_decay=DECAY)
    goes_on = replace(first, optimizer=slow, epochs=max(1, more * batch // count), schedule=None, start=state)
    query = (pixels[place : place + 1], labels[place : place + 1])
    return Unconverged(goes_on, study, query, float(losses[:count].mean()))
