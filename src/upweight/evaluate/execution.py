"""Ways to take many retrainings: one after another, in worker processes, or stacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from upweight._typing import Float
from upweight.errors import ConfigError, MissingExtraError
from upweight.evaluate.stacked import train_stacked
from upweight.evaluate.states import State, Train, read_state
from upweight.evaluate.training import Training, drawing

ROADS = ("auto", "one_by_one", "ensemble")
EXTRAS = {"dask": "distributed", "ray": "ray"}
"""joblib backends that another library brings, and its module."""


@dataclass(frozen=True)
class Task:
    """One retraining that is to be taken."""

    place: int
    weights: np.ndarray
    seed: int


def one_by_one(
    train: Train, tasks: Sequence[Task], jobs: int, backend: str | None, tick: Callable[[float], Any]
) -> Iterator[tuple[Task, State]]:
    """Every task on its own: here one after another, or in joblib's workers as they finish."""
    if jobs == 1 and backend is None:
        for task in tasks:
            state = trained(train, task)
            tick(1)
            yield task, state
        return
    for task, state in _by_joblib(train, tasks, jobs, backend or "loky"):
        tick(1)
        yield task, state


def _by_joblib(train: Train, tasks: Sequence[Task], jobs: int, backend: str) -> Iterator[tuple[Task, State]]:
    from joblib import Parallel, delayed, parallel_config
    from joblib.parallel import get_active_backend

    _register(backend)
    with parallel_config(backend=backend, n_jobs=jobs):
        if get_active_backend()[0].supports_return_generator:  # pyright: ignore
            alone = {"return_as": "generator_unordered", "batch_size": 1}  # a batch that fails loses what it finished
            yield from Parallel(**alone)(delayed(_finish)(train, task) for task in tasks)  # pyright: ignore
            return
        for start in range(0, len(tasks), jobs):
            yield from Parallel()(delayed(_finish)(train, task) for task in tasks[start : start + jobs])  # pyright: ignore


def _finish(train: Train, task: Task) -> tuple[Task, State]:
    return task, trained(train, task)


def trained(train: Train, task: Task) -> State:
    """One retraining, with torch's random state as it was afterwards; of one's own functions only one at a time in a process."""
    with nullcontext() if isinstance(train, Training) else drawing():
        return read_state(train(task.weights.copy(), task.seed))


def _register(backend: str) -> None:
    """Make a backend that another library brings known to joblib."""
    if backend not in EXTRAS:
        return
    try:
        if backend == "ray":
            from ray.util.joblib import register_ray  # pyright: ignore

            register_ray()
        else:
            import distributed  # noqa: F401  # pyright: ignore
    except ImportError as error:
        raise MissingExtraError(
            f"backend={backend!r} needs {EXTRAS[backend]}, which is not installed. Install it with: pip install 'upweight[{backend}]'"
        ) from error


def together(
    training: Training, tasks: Sequence[Task], width: int, tick: Callable[[float], Any]
) -> Iterator[tuple[Task, State]]:
    """Tasks in stacks of this width; a stack is finished at once, its progress told step by step."""
    for stack in stacks(training, tasks, width):
        weights: Float[np.ndarray, "k n"] = np.stack([task.weights for task in stack])
        told = partial(_tell, tick, len(stack) / training.steps(weights[0]))
        states = train_stacked(training, weights, [task.seed for task in stack], told)
        yield from zip(stack, map(read_state, states), strict=True)


def _tell(tick: Callable[[float], Any], share: float, step: int) -> None:
    """Tell of a step and answer nothing: a progress bar returns true when it draws itself, which would end the run."""
    tick(share)


def stacks(training: Training, tasks: Sequence[Task], width: int) -> list[list[Task]]:
    """Tasks cut into stacks whose batches are of one size, those of one seed beside each other."""
    pools: dict[int, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.seed):
        pools.setdefault(training.pool(task.weights), []).append(task)
    return [group[start : start + width] for group in pools.values() for start in range(0, len(group), width)]


def check_module(train: Any) -> None:
    """Refuse what is no callable of weights and seed; a module is a common mistake.

    Raises:
        ConfigError: not a callable, or a model.
    """
    if not callable(train) or isinstance(train, nn.Module):
        raise ConfigError(
            f"train= found {type(train).__name__}. Expected a callable (weights, seed) → state dict, or uw.evaluate.Training."
        )
