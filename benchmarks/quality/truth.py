"""Retrain for the truth of every setting, and train the models that are scored: resumable, one more seed at a time.

python benchmarks/quality/truth.py concrete 100 5        a setting, how many subsets, and how many seeds of each
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from quality.problem import ALPHA, CHECKPOINTS, FIRST, PROBLEMS, Problem

import upweight as uw
from upweight.evaluate import Retraining, SubsetTruth, Training, random_subsets

TRUTHS = Path(__file__).resolve().parent / "truth"
"""Masks and outputs, which are part of the repository: whoever scores need not retrain."""


def training_of(problem: Problem) -> Training:
    """The run, on whatever points have weight: a subset takes fewer steps, as retraining on it does."""
    optimizer = partial(torch.optim.SGD, lr=problem.rate, momentum=0.9, weight_decay=problem.decay)
    return Training(problem.build, problem.train, problem.loss, optimizer, problem.epochs, problem.batch, skip=True)


def retrain(problem: Problem, count: int, seeds: int) -> SubsetTruth:
    """The first subsets from the first seeds; what is finished, in this run or an earlier one, is not taken again."""
    study = uw.Study(problem.build(), problem.train, loss=problem.loss, curvature="identity")
    road = "ensemble" if problem.stacks else "one_by_one"
    train = Retraining(training_of(problem), problem.folder / "retrained", road=road, jobs=1, progress=True)
    masks = random_subsets(len(problem.train[1]), count, ALPHA)
    return uw.evaluate.subset_truth(
        study, problem.query, train=train, masks=masks, seeds=seeds, measure=problem.measure
    )


def train(problem: Problem) -> None:
    """The models that are scored, and the checkpoints of the first."""
    training, folder = training_of(problem), problem.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "checkpoints.npz").exists():
        epochs = np.linspace(0, problem.epochs, CHECKPOINTS + 1).round().astype(int)[1:].tolist()
        _keep(folder / "checkpoints.npz", training.trajectory(epochs, seed=FIRST))
    if not (folder / "models.npz").exists():
        seeds, n = list(range(FIRST, FIRST + problem.count)), len(problem.train[1])
        found = Retraining(training, jobs=1, road="one_by_one").all(np.full((len(seeds), n), 1 / n), seeds)
        _keep(folder / "models.npz", found)


def clock(problem: Problem) -> None:
    """What a training on everything and one on a half cost in processor seconds, once kernels are warm."""
    training, path, n = training_of(problem), problem.folder / "training.json", len(problem.train[1])
    if path.exists():
        return
    half = random_subsets(n, 1, ALPHA)[0] / (ALPHA * n)
    training(half, FIRST)
    seconds = {}
    for name, weights in (("one", training.equal_weights), ("half", half)):
        started = time.process_time()
        training(weights, FIRST)
        seconds[name] = time.process_time() - started
    path.write_text(json.dumps(seconds), "utf-8")


def _keep(path: Path, states: list[dict[str, torch.Tensor]]) -> None:
    np.savez(path, **{f"{k}.{name}": value.numpy() for k, state in enumerate(states) for name, value in state.items()})


def main(name: str, count: int, seeds: int) -> None:
    """One setting; a truth that is large enough already is left as it is."""
    problem, path = PROBLEMS[name](), TRUTHS / f"{name}.npz"
    TRUTHS.mkdir(exist_ok=True)
    train(problem)
    clock(problem)
    known = SubsetTruth.load(path) if path.exists() else None
    if known is None or len(known.kept) < count or known.seeds < seeds:
        known = retrain(problem, count, seeds)
        known.save(path)
    print(known, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
