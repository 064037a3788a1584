"""Which way to take many retrainings is fastest: a few steps of each, by the clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from upweight.errors import ConfigError
from upweight.evaluate.execution import Task
from upweight.evaluate.stacked import require_stackable, train_stacked
from upweight.evaluate.training import Training, drawing

WARM, TIMED = 3, 12
"""Steps that are taken before timing begins, and steps that are timed."""

WIDTHS = (8, 32, 128)
"""Members of an ensemble that are tried: few stay in cache, many share the overhead of a step."""

STACK_BYTES = 2**31
"""What an ensemble may take: its parameters, gradients and moments, and what its batches keep for the backward pass."""

COPIES = 5
"""Tensors of the size of the parameters that a step holds: themselves, gradients, two moments, one temporary."""

BOTH_WAYS = 2
"""What is kept for the backward pass, and as much again while it runs."""

WORKER_SECONDS = 4.0
"""What a new worker process costs before its first step: importing torch."""


@dataclass(frozen=True)
class Measured:
    """Seconds a retraining would take, by a few steps of each road, and what was chosen.

    Attributes:
        alone: one after another in this process, with all its threads.
        in_workers: the same spread over ``jobs`` processes, each with its share of the threads.
        stacked: by width, members trained at once; empty where that cannot be.
        road, width: the choice for ``count`` retrainings.
    """

    count: int
    jobs: int
    alone: float
    in_workers: float
    stacked: dict[int, float]
    why_not: str = ""

    @property
    def road(self) -> str:
        """The faster one."""
        return "ensemble" if self.stacked and self._together < min(self._alone, self._spread) else "one_by_one"

    @property
    def width(self) -> int:
        """Members trained at once."""
        return min(self.stacked, key=lambda width: self._stacked(width)) if self.stacked else 1

    @property
    def workers(self) -> int:
        """Processes for the road that takes one at a time."""
        return self.jobs if self._spread < self._alone else 1

    @property
    def words(self) -> str:
        """The measurement in one sentence."""
        rows = [f"one by one {self.alone:.2g} s each"]
        rows += [f"in {self.jobs} processes {self.in_workers:.2g} s each"] if self.jobs > 1 else []
        rows += [f"{width} at once {seconds:.2g} s each" for width, seconds in self.stacked.items()]
        chosen = (
            f"{self.width} at once"
            if self.road == "ensemble"
            else f"one by one in {self.workers} process{'es' * (self.workers > 1)}"
        )
        return (
            f"by {TIMED} steps of each: {', '.join(rows)}{'; ' + self.why_not if self.why_not else ''}; taken {chosen}"
        )

    @property
    def _alone(self) -> float:
        return self.count * self.alone

    @property
    def _spread(self) -> float:
        return WORKER_SECONDS + self.count * self.in_workers if self.jobs > 1 else float("inf")

    def _stacked(self, width: int) -> float:
        return -(-self.count // width) * min(width, self.count) * self.stacked[width]

    @property
    def _together(self) -> float:
        return self._stacked(self.width)


def measure(training: Training, tasks: Sequence[Task], jobs: int) -> Measured:
    """Take a few steps of every road with the first tasks, and keep the clock."""
    threads = torch.get_num_threads()
    alone = _alone(training, tasks[0], threads)
    spread = _alone(training, tasks[0], max(1, threads // jobs)) / jobs if jobs > 1 else alone
    alike = [task for task in tasks if training.pool(task.weights) == training.pool(tasks[0].weights)]
    try:
        require_stackable(training)
        stacked = {width: _together(training, alike[:width]) for width in widths(training, alike)}
    except (ConfigError, RuntimeError) as error:
        return Measured(
            len(tasks), jobs, alone, spread, {}, f"not at once, since {str(error).splitlines()[0].split('. ')[0]}"
        )
    return Measured(len(tasks), jobs, alone, spread, stacked)


def widths(training: Training, tasks: Sequence[Task]) -> list[int]:
    """How many members to try at once, within memory and the number of tasks."""
    most = max(1, min(len(tasks), STACK_BYTES // max(1, member_bytes(training))))
    return sorted({min(width, most) for width in (*WIDTHS, most) if min(width, most) > 1})


def member_bytes(training: Training) -> int:
    """What a member of a stack holds: parameters, gradients and moments, and what a batch keeps for its backward pass."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with drawing(), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model = training.started(0)
        rows = np.arange(min(training.batch_size, len(training.examples)))
        training.losses(*training.forward(model, training.read(rows))).sum()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return COPIES * size + BOTH_WAYS * kept


def _alone(training: Training, task: Task, threads: int) -> float:
    with _threads(threads):
        clock = _Clock()
        training(task.weights, task.seed, tick=lambda step, model: clock(step))
    return clock.per_step * training.steps(task.weights)


def _together(training: Training, tasks: Sequence[Task]) -> float:
    clock = _Clock()
    train_stacked(training, np.stack([task.weights for task in tasks]), [task.seed for task in tasks], clock)
    return clock.per_step * training.steps(tasks[0].weights) / len(tasks)


class _Clock:
    """Seconds of a step: the median of those after the first few, so that an interruption does not count."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def __call__(self, step: int) -> bool:
        self.times.append(time.perf_counter())
        return step >= WARM + TIMED

    @property
    def per_step(self) -> float:
        """The median of timed steps; of all where a run has fewer than the warm ones."""
        taken = np.diff(self.times)
        return float(np.median(taken[WARM:] if len(taken) > WARM else taken))


class _threads:
    """torch with so many threads inside one `with`, then as before."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.count)

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self.before)
