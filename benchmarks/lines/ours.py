"""upweight on the same two models: the study, then each question on its own."""

from __future__ import annotations

import sys

import numpy as np
import torch
from lines.problem import load
from measured import Row

import upweight as uw


def main(name: str) -> None:
    """The second of two passes, as for the closed forms by hand; a study is made anew for each question."""
    kind, row = name.split("-")[0], Row(name)
    line = load(kind)
    model = torch.nn.Linear(line.X.shape[1], 1).double().eval()
    model.weight.data, model.bias.data = torch.as_tensor(line.theta[None, :-1]), torch.as_tensor(line.theta[-1:])
    loss = "binary_cross_entropy" if kind == "logit" else "squared_error"
    data, query = (line.X, line.y[:, None]), (line.Xt, line.yt[:, None])
    row.measure_epoch(epoch(model, *data, kind))
    for _ in range(2):
        with row.phase("parameters"):
            moved = uw.Study(model, data, loss=loss).parameters()
        with row.phase("drop"):
            changes = uw.Study(model, data, loss=loss).drop(query)
    row.finish(np.vstack([changes.values, moved.values.T]))


def epoch(model, X, y, kind: str):
    """One plain forward and backward pass."""
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    functional = torch.nn.functional
    loss = functional.binary_cross_entropy_with_logits if kind == "logit" else functional.mse_loss

    def step():
        loss(model(X), y).backward()
        model.zero_grad()

    return step


if __name__ == "__main__":
    main(sys.argv[1])
