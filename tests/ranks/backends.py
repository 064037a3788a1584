"""Run in a process of its own: a study's drops by refits that other libraries' workers take, for joblib's Dask and Ray backends.

python backends.py BACKEND    prints the largest difference from refits taken here, and how many were taken
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

import upweight as uw
from upweight.evaluate import Refits, Retraining, Training

POINTS = [3, 17, 4]


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def start(backend: str) -> Any:
    """Two real workers of the library, and what ends them."""
    if backend == "dask":
        from distributed import Client

        client = Client(n_workers=2, threads_per_worker=1, dashboard_address=None)
        return client.close
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    return ray.shutdown


def main(backend: str) -> None:
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 3)), rng.integers(0, 2, 30)
    training = Training(build, (X, y), "cross_entropy", partial(torch.optim.SGD, lr=0.1), epochs=2, batch_size=5)
    study = uw.Study(training.model(training(training.equal_weights, 0)), (X, y), loss="cross_entropy")
    here = Refits(study, Retraining(training, jobs=1, road="one_by_one", progress=False), seeds=2)
    expected = here.drop((X[:4], y[:4]), which=POINTS)
    stop = start(backend)
    try:
        there = Refits(study, Retraining(training, backend=backend, jobs=2, road="one_by_one", progress=False), seeds=2)
        found = there.drop((X[:4], y[:4]), which=POINTS)
    finally:
        stop()
    print(np.abs(found.changes - expected.changes).max(), found.changes.size)


if __name__ == "__main__":
    main(sys.argv[1])
