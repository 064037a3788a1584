"""A callback of transformers' Trainer that records what attribution needs. Imports transformers, so it is imported when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainerCallback

from upweight._typing import Tensor
from upweight.adapters.huggingface.recording import MEAN, SQUARE, checkpoint_name, write_run
from upweight.errors import ConfigError, OrderError
from upweight.store.arrays import write_arrays


class Tapped:
    """A sampler whose positions are written down as they are drawn; in all else it is the sampler."""

    def __init__(self, sampler: Any, order: list[list[int]]) -> None:
        self.sampler, self.order = sampler, order

    def __iter__(self) -> Iterator[int]:
        epoch: list[int] = []
        self.order.append(epoch)
        for place in self.sampler:
            epoch.append(int(place))
            yield place

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


class Recorder(TrainerCallback):
    """Records the order of the data, the learning rates and checkpoints: see ``uw.huggingface.recorder``."""

    def __init__(self, folder: Path, checkpoints: int | Sequence[int], moments: bool) -> None:
        if isinstance(checkpoints, bool) or (isinstance(checkpoints, int) and checkpoints < 1):
            raise ConfigError(
                f"recorder found checkpoints={checkpoints!r}. Expected how many, at least one, or a list of steps."
            )
        self.folder, self.wanted, self.moments = folder, checkpoints, moments
        self.order: list[list[int]] = []
        self.rates: list[float] = []
        self.taken: list[int] = []
        self.about: dict[str, Any] = {}
        self.writer = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
        """Find the sampler, and decide after which steps checkpoints are taken."""
        self.order, self.rates, self.taken = [], [], []
        self.folder.mkdir(parents=True, exist_ok=True)
        batches = _batch_sampler(kept.get("train_dataloader"))
        batches.sampler = Tapped(batches.sampler, self.order)
        self.batches = batches
        last = int(state.max_steps)
        ends = np.linspace(0, last, self.wanted + 1)[1:] if isinstance(self.wanted, int) else self.wanted
        self.steps = {max(1, round(float(step))) for step in ends}
        self.about = {
            "batch_size": int(args.per_device_train_batch_size),
            "accumulation": int(args.gradient_accumulation_steps),
            "processes": int(args.world_size),
            "seed": int(args.seed),
            "first_step": int(state.global_step),
        }

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kept: Any) -> None:
        """The learning rate that this step takes."""
        self.rates.append(float(optimizer.param_groups[0]["lr"]))

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kept: Any
    ) -> None:
        """A checkpoint, where one is due."""
        if state.global_step in self.steps and state.is_world_process_zero:
            self._keep(int(state.global_step), model, optimizer)

    def on_train_end(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
        """Put the sampler back, and the run in its file."""
        self.batches.sampler = self.batches.sampler.sampler
        self._settle()
        if state.is_world_process_zero:
            write_run(self.folder, self.order, self.rates, self._about())

    def _keep(self, step: int, model: nn.Module, optimizer: Any) -> None:
        """Copy what is to be kept, and let a thread write it while training goes on."""
        arrays, inner = {}, getattr(optimizer, "optimizer", optimizer)
        self.about |= {"optimizer": type(inner).__name__}
        self.about |= {key: inner.param_groups[0][key] for key in ("betas", "eps") if key in inner.param_groups[0]}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            arrays[f"parameter:{name}"] = _copied(parameter)
            held = inner.state.get(parameter, {}) if self.moments else {}
            arrays |= {f"{key}:{name}": _copied(held[key]) for key in (MEAN, SQUARE) if key in held}
        self._settle()
        order, rates = [list(epoch) for epoch in self.order], list(self.rates)
        self.pending = self.writer.submit(self._write, step, arrays, order, rates)

    def _write(self, step: int, arrays: dict[str, np.ndarray], order: list[list[int]], rates: list[float]) -> None:
        write_arrays(self.folder / checkpoint_name(step), arrays, {"step": step})
        self.taken.append(step)
        write_run(self.folder, order, rates, self._about())

    def _settle(self) -> None:
        """Wait for what is being written; what went wrong there is raised here."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    def _about(self) -> dict[str, Any]:
        return {**self.about, "checkpoints": sorted(self.taken)}


def _copied(tensor: Tensor) -> np.ndarray:
    return np.array(tensor.detach().float().cpu().numpy())


def _batch_sampler(loader: Any) -> Any:
    """The batch sampler that draws from the sampler, below those that share batches out over processes.

    Raises:
        OrderError: a loader without one: an iterable dataset, whose order is its own.
    """
    found: Any = getattr(loader, "batch_sampler", None)
    while hasattr(found, "batch_sampler"):
        found = found.batch_sampler
    if found is None or not hasattr(found, "sampler") or not hasattr(found.sampler, "__len__"):
        raise OrderError(
            f"recorder found a training loader of type {type(loader).__name__} without a sampler. Expected a map-style dataset, whose order can be recorded."
        )
    return found
