"""Training that goes on without one point at a time, seen after several numbers of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import Unconverged
from torch.nn.functional import cross_entropy


@dataclass
class Onward:
    """What leaving each point out did, less a control with all points.

    Attributes:
        changes: (steps, points), of the query's loss.
        moved: (steps, points, p), of the parameters.
        control: (steps, p), how far the control itself went from where training stopped.
    """

    changes: np.ndarray
    moved: np.ndarray
    control: np.ndarray


def onward(found: Unconverged, optimizer: Any, steps: tuple[int, ...], points: np.ndarray, folder: Path) -> Onward:
    """Whole batches, on from where ``found`` was left, one point out at a time; runs are kept one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    n, space = len(found.training.examples), found.study.objective.space
    training = replace(found.training, optimizer=optimizer, epochs=steps[-1], batch_size=n)
    thetas, losses = [], []
    for point in (None, *points.tolist()):
        path = folder / f"{'control' if point is None else point}-{'-'.join(map(str, steps))}.npy"
        if not path.exists():
            weights = np.full(n, 1 / (n - (point is not None)))
            weights[[] if point is None else [point]] = 0
            np.save(path, np.stack([space.flatten(state).numpy() for state in training.trajectory(steps, weights)]))
        thetas.append(np.load(path))
        models = [training.model(space.unflatten(torch.as_tensor(theta))).double() for theta in thetas[-1]]
        outputs = [model(found.query[0].double()).detach() for model in models]
        losses.append([float(cross_entropy(one, found.query[1])) for one in outputs])
    moved = np.stack(thetas[1:], 1).astype(float) - thetas[0][:, None]
    went = thetas[0].astype(float) - space.flatten(training.start).double().numpy()
    return Onward(np.array(losses[1:]).T - np.array(losses[0])[:, None], moved, went)
