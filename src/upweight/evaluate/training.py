"""A training run written down, so that it can be taken again at other weights and seeds, alone or many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from upweight._typing import Batch, Float, Int, Tensor
from upweight.errors import ConfigError, ModelError, ShapeError, listing
from upweight.evaluate.arguments import read_numbers
from upweight.evaluate.states import State
from upweight.objective import Examples, Forward, Loss, plain_forward, read_examples, read_loss
from upweight.objective.data import map_tensors

Tick = Callable[[int, nn.Module], Any]
"""Called after every step with its number, from 1, and the model; a true answer ends the run."""

_GLOBAL = threading.RLock()
"""Held while torch's global random state is drawn from, which threads share."""

CALLED = {
    "build": "a callable that returns a new nn.Module",
    "optimizer": "a callable, parameters → a torch optimiser, such as functools.partial(torch.optim.SGD, lr=0.1)",
}
"""Arguments that are called."""

MIXING_ROWS = 4
"""Examples with which a model is asked whether its outputs in train mode depend on the rest of the batch."""


@contextmanager
def drawing() -> Iterator[None]:
    """torch's random state to oneself, and given back as it was."""
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with _GLOBAL, torch.random.fork_rng(devices=cuda):
        yield


@dataclass(frozen=True, repr=False)
class Training:
    """How a network is trained: a ``train(weights, seed) → state dict`` that can also be run many at a time.

        Σ wᵢℓᵢ(θ), estimated batch by batch as (P/b) Σ_batch wᵢℓᵢ; weight decay as the optimiser has it

    P is the number of points batches are drawn from, b the batch's own size, so wᵢ = 1/n is the mean loss of every batch.
    The seed decides the initial parameters and the order of the data, and nothing else does: the same seed reads the same
    points in the same order at any weights. A point of weight zero is read and weighs nothing, or, with ``skip``, is left out
    of the order, so that fewer steps are taken.

    Args:
        build: () → a new ``nn.Module``, its initial parameters drawn by torch.
        data, loss, forward: as for ``uw.Study``.
        optimizer: parameters → a torch optimiser: ``functools.partial(torch.optim.SGD, lr=0.03, momentum=0.9)``.
        epochs, batch_size: passes over the data, and points of a batch; the last batch of a pass may be smaller.
        schedule: optimiser → a torch learning-rate scheduler, which is stepped after every batch.
        start: a state dict to start from in place of the drawn one: the seed then decides the order alone.
        skip: leave points of weight zero out of the batches, as retraining on a subset does.

    Raises:
        ConfigError: numbers that cannot mean anything, or an optimiser that needs a closure.

    Error and cost:
        One forward and backward pass of P points an epoch. The same weights and seed give the same parameters, bit by
        bit on one machine; run together with others, up to rounding: measured after 560 steps of a ReLU network, 1e-15 of the
        largest parameter in float64 and 3e-7 in float32, but for the few members in which rounding switches a ReLU, as it does
        between two machines.
    """

    build: Callable[[], nn.Module]
    data: Any
    loss: Any
    optimizer: Callable[[Any], Optimizer]
    epochs: int
    batch_size: int
    schedule: Callable[[Optimizer], Any] | None = None
    forward: Forward = plain_forward
    start: Mapping[str, Tensor] | None = None
    skip: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"Training found {name}={value!r}. Expected a whole number above zero.")
        for name, expected in CALLED.items():
            if not callable(getattr(self, name)) or isinstance(getattr(self, name), nn.Module):
                raise ConfigError(
                    f"Training found {name}= of type {type(getattr(self, name)).__name__}. Expected {expected}."
                )

    def __call__(self, weights: Any, seed: int = 0, tick: Tick | None = None) -> State:
        """Train at these weights (n,) from this seed; parameters and buffers by name."""
        wanted = self.read_weights(weights)
        self.require_weights_count(wanted)
        with ExitStack() as held, torch.enable_grad():
            held.enter_context(drawing())
            model = self.started(seed)
            if not self.has_chance:
                held.close()  # the rest draws nothing, so that other threads may
            self._run(model, wanted, seed, tick)
        return state_of(model)

    def __getstate__(self) -> dict[str, Any]:
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return kept | {"data": self.examples}

    def __repr__(self) -> str:
        skipped = ", points without weight left out of the batches" if self.skip else ""
        return f"Training of {self.epochs} epochs in batches of {self.batch_size} over {len(self.examples):,} points{skipped}"

    def model(self, state: Mapping[str, Tensor]) -> nn.Module:
        """A model with these parameters and buffers, in eval mode."""
        with drawing():
            model = self.build()
        return loaded(model, state).eval()

    def trajectory(self, epochs: Sequence[int], weights: Any = None, seed: int = 0) -> list[State]:
        """The states after these epochs of one run, 0 for the start; at equal weights by default.

        Raises:
            ConfigError: epochs that are not in order, or beyond the last.
        """
        if list(epochs) != sorted(set(epochs)) or not all(0 <= epoch <= self.epochs for epoch in epochs):
            raise ConfigError(
                f"trajectory found epochs={list(epochs)}. Expected different ones in rising order, from 0 to {self.epochs}."
            )
        wanted = self.equal_weights if weights is None else self.read_weights(weights)
        length = self.steps(wanted) // self.epochs
        found: dict[int, State] = {}
        with drawing():
            found[0] = state_of(self.started(seed))

        def keep(step: int, model: nn.Module) -> None:
            if step % length == 0 and step // length in epochs:
                found[step // length] = state_of(model)

        self(wanted, seed, keep)
        return [found[epoch] for epoch in epochs]

    def over(self, examples: Examples) -> Training:
        """The same training over other data."""
        return replace(self, data=examples)

    @cached_property
    def examples(self) -> Examples:
        """The training set, in the type of the model's parameters."""
        return read_examples(self.data, self._example.dtype, what="training set of train=")

    @property
    def equal_weights(self) -> np.ndarray:
        """1/n each."""
        return np.full(len(self.examples), 1 / len(self.examples))

    @cached_property
    def criterion(self) -> Loss:
        """The loss, told the shape of the outputs."""
        loss = read_loss(self.loss)
        with drawing(), torch.no_grad():
            outputs, targets = self.forward(self.started(0).eval(), self.read(np.arange(min(2, len(self.examples)))))
        loss.prepare(outputs, targets, self.examples.ids)
        return loss.bound(tuple(outputs.shape[1:]))

    def read(self, rows: np.ndarray) -> Batch:
        """These points on the model's device."""
        device = self._example.device
        return map_tensors(self.examples.read(rows), lambda tensor: tensor.to(device))

    def read_weights(self, weights: Any) -> np.ndarray:
        """Weights (n,) as float64.

        Raises:
            ShapeError, ConfigError: of the wrong number, not finite, or all zero.
        """
        found = read_numbers(weights, "weights")
        if found.shape != (len(self.examples),):
            raise ShapeError(
                f"train= found weights of shape {found.shape}. Expected ({len(self.examples)},): one a training point."
            )
        if not np.isfinite(found).all() or not found.any():
            raise ConfigError(
                "train= found weights that are not finite, or all zero. Expected some points to train on."
            )
        return found

    def started(self, seed: int) -> nn.Module:
        """A new model in train mode, its parameters drawn from this seed or as ``start`` has them.

        Draws from torch's global state, which whoever calls must give back.
        """
        torch.manual_seed(seed)
        model = self.build()
        if not isinstance(model, nn.Module):
            raise ModelError(f"build= returned {type(model).__name__}. Expected a new nn.Module; return one.")
        if self.start is not None:
            loaded(model, self.start)
        return model.train()

    def optimizer_of(self, parameters: list[nn.Parameter]) -> tuple[Optimizer, Any]:
        """The optimiser and the scheduler, None where there is none."""
        optimizer = self.optimizer(parameters)
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
            raise ConfigError(
                f"optimizer= returned {type(optimizer).__name__}. Expected a torch optimiser that steps from gradients, such as SGD or Adam; pass functools.partial(torch.optim.SGD, lr=0.1), or train=callable(weights, seed) of your own."
            )
        return optimizer, None if self.schedule is None else self.schedule(optimizer)

    def steps(self, weights: np.ndarray) -> int:
        """How many batches a run at these weights takes."""
        return self.epochs * -(-self.pool(weights) // self.batch_size)

    def pool(self, weights: np.ndarray) -> int:
        """P, how many points batches are drawn from."""
        return int(np.count_nonzero(weights)) if self.skip else len(weights)

    def rows(self, weights: np.ndarray, seed: int) -> Iterator[Int[np.ndarray, "b"]]:
        """The points of every batch, in order."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.epochs):
            order = torch.randperm(len(weights), generator=generator).numpy()
            order = order[weights[order] != 0] if self.skip else order
            ends = [*range(0, len(order), self.batch_size), len(order)]
            yield from (order[a:b] for a, b in pairwise(ends))

    def losses(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "b"]:
        """ℓ of every example of a batch."""
        return self.criterion.values(*self.criterion.prepare(outputs, targets))

    @cached_property
    def has_chance(self) -> bool:
        """Whether outputs in train mode depend on chance, as dropout's do."""
        return not torch.equal(*self._outputs_under(self._rows, self._rows, seeds=(0, 1)))

    @cached_property
    def mixes(self) -> bool:
        """Whether outputs in train mode depend on the rest of the batch, as batch norm's do."""
        first, second = self._outputs_under(self._rows, np.zeros_like(self._rows), seeds=(0, 0))
        return not torch.allclose(first[0], second[0], rtol=1e-3, atol=1e-6)

    @property
    def _rows(self) -> np.ndarray:
        return np.arange(min(MIXING_ROWS, len(self.examples)))

    def _outputs_under(self, first: np.ndarray, second: np.ndarray, seeds: tuple[int, int]) -> list[Tensor]:
        found = []
        with drawing(), torch.no_grad():
            for rows, seed in zip((first, second), seeds, strict=True):
                model = self.started(0)
                torch.manual_seed(seed)
                found.append(self.forward(model, self.read(rows))[0])
        return found

    def _run(self, model: nn.Module, weights: np.ndarray, seed: int, tick: Tick | None) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer, schedule = self.optimizer_of(parameters)
        pool = self.pool(weights)
        amounts = torch.as_tensor(weights).to(parameters[0])
        for step, rows in enumerate(self.rows(weights, seed), 1):
            outputs, targets = self.forward(model, self.read(rows))
            value = amounts[rows] @ self.losses(outputs, targets) * (pool / len(rows))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            if tick is not None and tick(step, model):
                return

    def require_weights_count(self, weights: np.ndarray) -> None:
        """Refuse zero weights where a point without weight would still act through its batch."""
        if not self.skip and self.mixes and not weights.all():
            raise ConfigError(
                "Training found points of weight zero and a model whose outputs in train mode depend on the whole batch (batch norm): such points would still act. Expected skip=True, which leaves them out of the batches."
            )

    @cached_property
    def _example(self) -> Tensor:
        """One of the parameters, for its type and device."""
        with drawing():
            parameters = [p for p in self.started(0).parameters() if p.requires_grad]
        if not parameters:
            raise ModelError(
                "build= returned a model without parameters to train. Expected at least one that requires gradients."
            )
        return parameters[0].detach()


def loaded(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The model with these parameters and buffers, all of its parameters among them.

    Raises:
        ConfigError: names of another model, or parameters that are missing. ShapeError: shapes of another model.
    """
    own = dict(model.named_parameters())
    known = set(own) | set(model.state_dict())
    foreign, missing = [name for name in state if name not in known], [name for name in own if name not in state]
    if foreign or missing:
        wrong = f"with {listing(foreign)}" if foreign else f"without {listing(missing)}"
        raise ConfigError(
            f"found a state dict {wrong}. Expected the names of what build= returns: {listing(own)}; pass the state dict of a model made the same way."
        )
    try:
        model.load_state_dict(dict(state), strict=False)  # a tied parameter is listed once
    except RuntimeError as error:
        raise ShapeError(
            f"found a state dict of other shapes than build= returns ({str(error).splitlines()[-1].strip()}). Expected the state dict of a model made the same way."
        ) from error
    return model


def state_of(model: nn.Module) -> State:
    """Copies of a model's parameters and buffers, on the CPU."""
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: value.detach().cpu().clone() for name, value in found.items()}
