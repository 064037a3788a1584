"""Many runs of one training at once: parameters stacked, one batched matrix product a layer.

Members differ in weights and seeds. Losses of members are added up, so that each one's gradient is its own; torch's own
optimiser then steps all of them, since it treats every number of a tensor alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import vmap
from torch.optim import Optimizer

from upweight._typing import Batch, Float, Int, Tensor
from upweight.errors import ConfigError
from upweight.evaluate.states import State
from upweight.evaluate.training import Training, drawing
from upweight.gradients.guard import ForwardModule, called
from upweight.gradients.vmap import plain_attention
from upweight.objective.data import map_tensors

ELEMENTWISE = tuple(
    getattr(torch.optim, name)
    for name in ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "ASGD", "Rprop")
)
"""Optimisers whose step of one number depends on that number's own gradients alone, so that members do not meet."""


@dataclass(frozen=True)
class Stack:
    """Members' parameters and buffers, (k, …) each, and a model that gives them their places.

    Attributes:
        trained: what the optimiser moves, in its order.
        moving: buffers, which a forward pass may write to.
        held: frozen parameters, the same for all members.
    """

    skeleton: ForwardModule
    trained: dict[str, nn.Parameter]
    moving: dict[str, Tensor]
    held: dict[str, Tensor]

    @classmethod
    def of(cls, training: Training, seeds: Sequence[int]) -> Stack:
        """Members started from their seeds, each drawn as it would be alone."""
        models = {seed: training.started(seed) for seed in dict.fromkeys(seeds)}
        members = [models[seed] for seed in seeds]
        first = members[0]
        free = {name for name, p in first.named_parameters() if p.requires_grad}
        tables = [dict(model.named_parameters()) | dict(model.named_buffers()) for model in members]
        whole = {name: torch.stack([table[name].detach() for table in tables]) for name in tables[0]}
        frozen = {name for name, _ in first.named_parameters()} - free
        different = [name for name in frozen if not bool((whole[name] == whole[name][0]).all())]
        if different:
            raise ConfigError(
                f"the frozen parameter {different[0]!r} depends on the seed. Expected frozen parameters that are the same in every model; draw them once, or train one by one (road='one_by_one')."
            )
        return cls(
            ForwardModule(first, training.forward),
            {name: nn.Parameter(whole[name]) for name in tables[0] if name in free},
            {name: value for name, value in whole.items() if name not in free | frozen},
            {name: whole[name][0] for name in tables[0] if name in frozen},
        )

    def outputs(self, batch: Batch, shared: bool) -> tuple[Tensor, Tensor]:
        """Outputs and targets of every member's batch, (k, b, …); shared: all members read the same one."""

        def one(values: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
            placed = {f"model.{name}": value for name, value in (values | self.held).items()}
            return called(self.skeleton, placed, batch)

        with plain_attention():
            return vmap(one, in_dims=(0, None if shared else 0))(self.trained | self.moving, batch)

    def states(self) -> Iterator[State]:
        """Every member on its own, on the CPU."""
        names = [name for name, _ in (*self.skeleton.model.named_parameters(), *self.skeleton.model.named_buffers())]
        whole = {name: value.detach().cpu() for name, value in (self.trained | self.moving).items()}
        for k in range(len(next(iter(whole.values())))):
            yield {
                name: (whole[name][k] if name in whole else self.held[name].detach().cpu()).clone() for name in names
            }


def train_stacked(
    training: Training,
    weights: Float[np.ndarray, "k n"],
    seeds: Sequence[int],
    tick: Callable[[int], Any] | None = None,
) -> list[State]:
    """The states that ``training(weights[j], seeds[j])`` returns, up to rounding, from one run.

    Args:
        tick: called after every step with its number; a true answer ends the run.

    Raises:
        ConfigError: a model with chance in it, an optimiser that ties numbers to each other, or members whose batches
            are not of one size.
    """
    require_stackable(training)
    pools = {training.pool(row) for row in weights}
    if len(pools) > 1:
        raise ConfigError(
            f"found runs over {sorted(pools)} points. Expected the same number for all that run together; group them by it."
        )
    for row in weights:
        training.require_weights_count(row)
    with drawing(), torch.enable_grad():
        stack = Stack.of(training, seeds)
        _run(training, stack, weights, seeds, pools.pop(), tick)
    return list(stack.states())


def require_stackable(training: Training) -> None:
    """Refuse what cannot give the same parameters together as alone.

    Raises:
        ConfigError: chance in the model, or an optimiser that is not elementwise.
    """
    if training.has_chance:
        raise ConfigError(
            "the model has chance in it in train mode (dropout), which members of an ensemble would draw differently than alone. Expected a model without; train one by one (road='one_by_one')."
        )
    optimizer, _ = training.optimizer_of([nn.Parameter(torch.zeros(1))])
    if type(optimizer) not in ELEMENTWISE:
        raise ConfigError(
            f"{type(optimizer).__name__} is not known to step every number by its own gradients alone. Expected one of {', '.join(kind.__name__ for kind in ELEMENTWISE)}; train one by one (road='one_by_one')."
        )


def _run(
    training: Training,
    stack: Stack,
    weights: Float[np.ndarray, "k n"],
    seeds: Sequence[int],
    pool: int,
    tick: Callable[[int], Any] | None,
) -> None:
    optimizer, schedule = training.optimizer_of(list(stack.trained.values()))
    amounts = torch.as_tensor(weights).to(next(iter(stack.trained.values())))
    for step, rows in enumerate(_rows(training, weights, seeds), 1):
        value = _value(training, stack, amounts, rows) * (pool / rows.shape[-1])
        _stepped(optimizer, schedule, value)
        if tick is not None and tick(step):
            return


def _stepped(optimizer: Optimizer, schedule: Any, value: Float[Tensor, ""]) -> None:
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    if schedule is not None:
        schedule.step()


def _value(
    training: Training, stack: Stack, amounts: Float[Tensor, "k n"], rows: Int[np.ndarray, "..."]
) -> Float[Tensor, ""]:
    """Σ over members and their batches of wᵢℓᵢ."""
    shared, members = rows.ndim == 1, len(amounts)
    batch = training.read(rows.reshape(-1))
    if not shared:
        batch = map_tensors(batch, lambda tensor: tensor.unflatten(0, rows.shape))
    outputs, targets = stack.outputs(batch, shared)
    losses = training.losses(outputs.flatten(0, 1), targets.flatten(0, 1))
    places = torch.as_tensor(rows).to(amounts.device)
    chosen = amounts[:, places] if shared else amounts.gather(1, places)
    return (chosen * losses.view(members, -1)).sum()


def _rows(
    training: Training, weights: Float[np.ndarray, "k n"], seeds: Sequence[int]
) -> Iterator[Int[np.ndarray, "..."]]:
    """The points of every step: (b,) where all members read the same, else (k, b)."""
    if len(set(seeds)) == 1 and (not training.skip or bool((weights.astype(bool) == weights[0].astype(bool)).all())):
        yield from training.rows(weights[0], seeds[0])
        return
    for members in zip(*(training.rows(row, seed) for row, seed in zip(weights, seeds, strict=True)), strict=True):
        yield np.stack(members)
