"""How time and memory grow: EK-FAC and first-order scores of a perceptron while n, m, width or depth doubles."""

from __future__ import annotations

import itertools
import sys
import warnings

import torch
from measured import Row
from networks.problem import plain_epoch
from torch import nn

import upweight as uw

BASE = {"n": 4000, "m": 100, "width": 256, "depth": 3}
INPUTS, CLASSES = 128, 10


def problem(n: int, m: int, width: int, depth: int):
    """A perceptron of its first weights and seeded noise: how long it takes does not depend on what was learned."""
    torch.manual_seed(0)
    sizes = [INPUTS, *[width] * depth]
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    X, y = torch.randn(n + m, INPUTS), torch.randint(CLASSES, (n + m,))
    return nn.Sequential(*hidden, nn.Linear(width, CLASSES)).eval(), X[:n], y[:n], X[n:], y[n:]


def main(name: str) -> None:
    """One size: 'growth-width-512' is the base with that width."""
    warnings.simplefilter("ignore")
    _, what, size = name.split("-")
    row = Row(name)
    model, X, y, Xt, yt = problem(**BASE | {what: int(size)})
    row.measure_epoch(plain_epoch(model, X, y, len(X)))
    row.forget_peak()
    with row.phase("study"):
        study = uw.Study(model, (X, y), loss="cross_entropy", curvature="ekfac", fisher="sampled")
    with row.phase("fit"):
        study.fitted.blocked.inverse  # noqa: B018 - computes the factors
    with row.phase("score"):
        study.drop((Xt, yt), order="first")
    row.finish()


if __name__ == "__main__":
    main(sys.argv[1])
