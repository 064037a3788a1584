"""What a training run left behind: the order of its data, its learning rates, and checkpoints."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.errors import ConfigError
from upweight.store.arrays import read_arrays, write_arrays

RUN = "run.safetensors"
MEAN, SQUARE = "exp_avg", "exp_avg_sq"
"""What Adam calls its two moments; parameters are kept under 'parameter'."""


def checkpoint_name(step: int) -> str:
    """The file of the checkpoint after this step."""
    return f"step-{step:07d}.safetensors"


@dataclass(frozen=True, repr=False)
class Recording:
    """A recorded run.

    Attributes:
        folder: where it lies.
        order: positions in the training set, epoch by epoch, in the order in which they were read.
        rates: the learning rate of every step, of the first group of parameters.
        checkpoints: after which steps there is one.
        about: batch size, gradient accumulation, seed, optimiser, as the run had them.
    """

    folder: Path
    order: tuple[np.ndarray, ...]
    rates: np.ndarray
    checkpoints: tuple[int, ...]
    about: dict[str, Any]

    def state(self, step: int) -> dict[str, Tensor]:
        """The trained parameters after a step, by name: for ``uw.methods.at``.

        Raises:
            ConfigError: no checkpoint there.
        """
        return self._kept(step, "parameter")

    def moments(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Adam's moments m and v after a step, by the name of the parameter.

        Raises:
            ConfigError: no checkpoint there, or none that has moments.
        """
        return self._kept(step, MEAN), self._kept(step, SQUARE)

    def taken(self) -> list[float]:
        """Σ of the learning rates up to each checkpoint since the one before: what TracIn weights it with."""
        ends = [0, *self.checkpoints]
        return [float(self.rates[a:b].sum()) for a, b in itertools.pairwise(ends)]

    def seen(self, steps: int) -> np.ndarray:
        """Positions in the training set in the order in which the first steps read them."""
        size = self.about["batch_size"] * self.about["accumulation"] * self.about["processes"]
        flat = []
        for epoch in self.order:
            batches = max(1, -(-len(epoch) // size))
            flat.append(epoch[: min(steps, batches) * size])
            steps -= min(steps, batches)
        return np.concatenate(flat) if flat else np.empty(0, dtype=np.int64)

    def _kept(self, step: int, kind: str) -> dict[str, Tensor]:
        if step not in self.checkpoints:
            raise ConfigError(
                f"the recording in {self.folder} has no checkpoint after step {step}. Expected one of {', '.join(map(str, self.checkpoints)) or 'none'}."
            )
        arrays, _ = read_arrays(self.folder / checkpoint_name(step))
        found = {name.split(":", 1)[1]: torch.as_tensor(a) for name, a in arrays.items() if name.startswith(f"{kind}:")}
        if not found:
            raise ConfigError(
                f"the checkpoint after step {step} has no {kind}. Expected an optimiser of Adam's kind and a recorder with moments=True."
            )
        return found

    def __repr__(self) -> str:
        passes = f"{len(self.order)} epoch{'s' * (len(self.order) != 1)}"
        return f"Recording of {len(self.rates)} steps in {passes}, checkpoints after {', '.join(map(str, self.checkpoints))}; {self.folder}"


def write_run(folder: Path, order: Sequence[Sequence[int]], rates: Sequence[float], about: dict[str, Any]) -> None:
    """Put the run's own file in place, whole."""
    flat = np.concatenate([np.asarray(epoch, dtype=np.int64) for epoch in order]) if order else np.empty(0, np.int64)
    ends = np.cumsum([len(epoch) for epoch in order], dtype=np.int64)
    arrays = {"order": flat, "ends": ends, "rates": np.asarray(rates, dtype=np.float64)}
    write_arrays(folder / RUN, arrays, about)


def read_recording(folder: str | os.PathLike[str]) -> Recording:
    """What ``uw.huggingface.recorder`` wrote.

    Raises:
        StoreError: a file that is missing or damaged.
    """
    place = Path(folder)
    arrays, about = read_arrays(place / RUN)
    order = tuple(np.split(arrays["order"], arrays["ends"][:-1])) if len(arrays["ends"]) else ()
    return Recording(place, order, arrays["rates"], tuple(about.pop("checkpoints")), about)
