"""A hundred retrainings by one road each: one after another, in worker processes, stacked, or whichever is measured faster."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import torch
from measured import DATA, Row
from refits.problem import KEPT, TRAININGS, halves

from upweight.evaluate import Retraining

ROADS: dict[str, dict[str, Any]] = {
    "alone": {"road": "one_by_one", "jobs": 1},
    "workers": {"road": "one_by_one", "jobs": 2},
    "ensemble": {"road": "ensemble", "jobs": 2},
    "auto": {"road": "auto", "jobs": 2},
}


def main(name: str) -> None:
    """Retrain, keep some parameters, and say how far they are from those trained one by one."""
    warnings.simplefilter("ignore")
    kind, road = name.split("-")
    row, (training, _) = Row(name), TRAININGS[kind]()
    weights, rows = halves(len(training.examples)), torch.arange(len(training.examples)).split(1024)
    model = training.model(training.trajectory([0])[0])

    def epoch() -> None:
        for places in rows:
            outputs, targets = training.forward(model, training.read(places.numpy()))
            training.losses(outputs, targets).mean().backward()
        model.zero_grad(set_to_none=True)

    row.measure_epoch(epoch)
    retraining = Retraining(training, progress=False, **ROADS[road])
    with row.phase("retrain"):
        states = retraining.all(weights)
    kept = np.stack([np.concatenate([value.ravel().numpy() for value in s.values()]) for s in states[: KEPT[kind]]])
    row.notes = f"{sum(row.seconds.values()) / len(states):.3g} s each{compared(kind, road, kept)}"
    if retraining.log:
        row.notes += f"; {retraining.log[0].words}"
    row.finish(kept)


def compared(kind: str, road: str, kept: np.ndarray) -> str:
    """The largest difference of a member's parameters from the run that took one at a time, in units of the largest parameter."""
    truth = DATA / "scores" / f"{kind}-alone.npy"
    if road == "alone" or not truth.exists():
        return ""
    alone = np.load(truth)
    apart = np.abs(kept - alone).max(1) / np.abs(alone).max(1)
    return f", parameters within {np.median(apart):.0e} of the largest for the median member, {apart.max():.0e} for the worst ({(apart > 1e-5).sum()} of {len(apart)} beyond 1e-5)"


if __name__ == "__main__":
    main(sys.argv[1])
