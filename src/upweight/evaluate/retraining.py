"""Many retrainings: taken by the fastest road, each kept when it is finished, none taken twice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from upweight._typing import Float
from upweight.errors import ConfigError, ShapeError
from upweight.evaluate.arguments import read_count, read_numbers, read_seeds
from upweight.evaluate.execution import ROADS, Task, check_module, one_by_one, together, trained
from upweight.evaluate.fingerprint import fingerprint
from upweight.evaluate.finished import Finished, finished_in
from upweight.evaluate.ignored_weights import IgnoredWeights
from upweight.evaluate.states import State, Train
from upweight.evaluate.timing import Measured, measure
from upweight.evaluate.training import Training

MEASURED_FROM = 4
"""Retrainings from which measuring the roads is worth its seconds."""


@dataclass(frozen=True, repr=False)
class Retraining:
    """How to retrain many times, and where finished retrainings are kept: for ``train=`` wherever that is asked for.

    A finished retraining is written at once, under a name made of its weights, its seed and ``train`` itself; it is never taken
    again, after an interruption or an error either. Anything else about ``train`` (another learning rate, other data) is another name.

    Args:
        train: (weights, seed) → state dict, or a ``Training``. Weights are a NumPy array (n,), zero where a point is left out.
        folder: where finished retrainings are kept; in memory, as long as this object lives, by default.
        road: 'one_by_one', 'ensemble' (a ``Training`` only), or 'auto', the faster by a short measurement.
        jobs: worker processes of the first; one for a callable of your own, the machine's cores for a ``Training``.
        backend: of joblib, for workers: 'loky' (processes here), 'dask', 'ray', 'threading', or one you registered.
        width: members of an ensemble; measured by default.
        progress: show a progress bar with the time left; None shows one on a terminal.

    Raises:
        ConfigError: an unknown road, an ensemble of something else than a ``Training``, or a ``train`` that gives the same
            parameters at other weights or from another seed.
        NonFiniteInput: a retraining diverged. MissingExtraError: the backend's library is not installed.
    """

    train: Train
    folder: str | os.PathLike[str] | None = None
    road: str = "auto"
    jobs: int | None = None
    backend: str | None = None
    width: int | None = None
    progress: bool | None = None
    ignored: IgnoredWeights = field(default_factory=IgnoredWeights, repr=False, compare=False)
    log: list[Measured] = field(default_factory=list, repr=False, compare=False)
    """Measurements of the roads that were taken on the way."""

    def __post_init__(self) -> None:
        check_module(self.train)
        if self.road not in ROADS:
            raise ConfigError(f"road={self.road!r} is unknown. Expected one of {', '.join(ROADS)}.")
        if self.road == "ensemble" and not isinstance(self.train, Training):
            raise ConfigError(
                f"road='ensemble' found train= of type {type(self.train).__name__}. Expected a uw.evaluate.Training, which says how to train many at once."
            )
        for name in ("jobs", "width"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name}={value!r}. Expected a whole number above zero, or None.")

    def __repr__(self) -> str:
        return f"Retraining by {self.train if isinstance(self.train, Training) else type(self.train).__name__}; finished ones kept {self.finished.where}"

    def __call__(self, weights: Any, seed: int = 0) -> State:
        """One retraining."""
        return self.all(read_numbers(weights, "weights")[None], [seed])[0]

    def all(self, weights: Any, seeds: int | Sequence[int] = 0) -> list[State]:
        """The states at every weighting (r, n) from every seed (r,), or from one seed, in this order."""
        found = dict(self.states(weights, seeds))
        return [found[place] for place in range(len(found))]

    def states(self, weights: Any, seeds: int | Sequence[int] = 0) -> Iterator[tuple[int, State]]:
        """The same one by one as they are finished, each with its place; nothing is held back."""
        tasks = _tasks(weights, seeds)
        keys = [self.key(task) for task in tasks]
        owners: dict[str, list[Task]] = {}
        for key, task in zip(keys, tasks, strict=True):
            owners.setdefault(key, []).append(task)
        with self._bar(len(tasks)) as bar:
            left = {key: own[0] for key, own in owners.items()}
            for key in list(left):
                state = self.finished.get(key)
                if state is not None:
                    bar.update(len(owners[key]))
                    yield from self._handed(owners[key], state)
                    del left[key]
            names = {task.place: key for key, task in left.items()}
            for task, state in self._guarded(list(left.values()), bar):
                self.finished.put(names[task.place], state)
                yield from self._handed(owners[names[task.place]], state)

    def key(self, task: Task) -> str:
        """The name of a retraining: what it is made of."""
        return fingerprint(self.recipe, np.asarray(task.weights, dtype=np.float64), int(task.seed))

    @cached_property
    def recipe(self) -> str:
        """The name of ``train``, as it was when it was first used."""
        return fingerprint(self.train)

    @cached_property
    def finished(self) -> Finished:
        """What is finished."""
        return finished_in(None if self.folder is None else Path(self.folder))

    def measured(self, weights: Any, seeds: int | Sequence[int] = 0) -> Measured:
        """Seconds a retraining by every road, from a few steps of each.

        Raises:
            ConfigError: ``train`` is no ``Training``.
        """
        if not isinstance(self.train, Training):
            raise ConfigError(
                f"measured() found train= of type {type(self.train).__name__}. Expected a uw.evaluate.Training, whose steps can be timed."
            )
        return measure(self.train, _tasks(weights, seeds), self.workers)

    @property
    def workers(self) -> int:
        """Processes for the road that takes one at a time."""
        if self.jobs is not None:
            return self.jobs
        if not isinstance(self.train, Training) and self.backend is None:
            return 1
        from joblib import cpu_count

        return cpu_count(only_physical_cores=True)

    def _handed(self, tasks: list[Task], state: State) -> Iterator[tuple[int, State]]:
        proof = self.ignored.see(tasks[0].weights, tasks[0].seed, state)
        if proof is not None:  # one more retraining, on every other point, settles whether weights are looked at
            self.ignored.see(proof, tasks[0].seed, trained(self.train, Task(0, proof, tasks[0].seed)))
        for task in tasks:
            yield task.place, state

    def _guarded(self, tasks: list[Task], bar: Any) -> Iterator[tuple[Task, State]]:
        """Take the tasks; an error or an interruption says what is kept."""
        done = 0
        try:
            for task, state in self._by_road(tasks, bar):
                done += 1
                yield task, state
        except (Exception, KeyboardInterrupt) as error:
            error.add_note(
                f"{done} of {len(tasks)} retrainings were finished before and are kept {self.finished.where}; ask again with the same train= to go on from there."
            )
            raise

    def _by_road(self, tasks: list[Task], bar: Any) -> Iterator[tuple[Task, State]]:
        if not tasks:
            return iter(())
        training = self.train
        if not isinstance(training, Training) or self.road == "one_by_one" or self.backend is not None:
            return one_by_one(training, tasks, self.workers, self.backend, bar.update)
        if self.road == "ensemble":
            width = self.width or max(2, self._measured(tasks, 1).width)
            return together(training, tasks, width, bar.update)
        if len(tasks) < MEASURED_FROM:
            return one_by_one(training, tasks, 1, None, bar.update)
        found = self._measured(tasks, self.workers)
        bar.set_description_str(f"retraining, {found.road.replace('_', ' ')}")
        if found.road == "ensemble":
            return together(training, tasks, self.width or found.width, bar.update)
        return one_by_one(training, tasks, found.workers, None, bar.update)

    def _measured(self, tasks: list[Task], jobs: int) -> Measured:
        assert isinstance(self.train, Training)
        self.log.append(measure(self.train, tasks, jobs))
        return self.log[-1]

    @contextmanager
    def _bar(self, total: int) -> Iterator[Any]:
        hidden = None if self.progress is None else not self.progress
        shape = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        with tqdm(total=total, desc="retraining", leave=False, disable=hidden, bar_format=shape) as bar:
            yield bar


def _tasks(weights: Any, seeds: int | Sequence[int]) -> list[Task]:
    rows: Float[np.ndarray, "r n"] = np.array(read_numbers(weights, "weights"), ndmin=2)
    one = isinstance(seeds, int | np.integer)
    wanted = [read_count(seeds, "seed", None)] * len(rows) if one else list(read_seeds(seeds))
    if rows.ndim != 2 or len(wanted) != len(rows):
        raise ShapeError(
            f"found weights of shape {rows.shape} and {len(wanted)} seeds. Expected weights (r, n) and a seed for each row, or one for all."
        )
    return [Task(place, row, seed) for place, (row, seed) in enumerate(zip(rows, wanted, strict=True))]


def as_retraining(
    train: Train | Retraining, progress: bool | None, folder: str | os.PathLike[str] | None = None
) -> Retraining:
    """What ``train=`` was given, with the means to take it many times."""
    return train if isinstance(train, Retraining) else Retraining(train, folder=folder, progress=progress)
