"""Sums over the checkpoints of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError
from upweight.gradients import rows
from upweight.linop import Projection
from upweight.methods.products import grad_dot
from upweight.objective import Objective


def at(objective: Objective, state: Mapping[str, Tensor]) -> Objective:
    """The same objective at the tracked parameters of a checkpoint.

    Args:
        state: a state dict that holds every tracked parameter; what is not tracked stays as the model has it.

    Raises:
        ConfigError: a tracked parameter is missing or of another shape.
    """
    space = objective.space
    for name, shape in zip(space.names, space.shapes, strict=True):
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            raise ConfigError(
                f"the checkpoint has {name!r} of shape {found}. Expected {shape}; pass the state dict of this model."
            )
    return replace(objective, theta=space.flatten(state).detach().to(objective.theta))


def tracin(checkpoints: Sequence[Objective], query: Any, rates: Sequence[float]) -> Float[Tensor, "m n"]:
    """Σ_c η_c ∇ℓ_q(θ_c)·∇ℓᵢ(θ_c): TracInCP (Pruthi, Liu, Kale & Sundararajan 2020).

    Args:
        checkpoints: the objective at each of them, from ``at``.
        rates: η_c, the learning rate at each, or what was taken of it between two of them.

    Raises:
        ConfigError: not one rate a checkpoint.
    """
    require_as_many("tracin", checkpoints, rates)
    return torch.stack([eta * grad_dot(one, query) for one, eta in zip(checkpoints, rates, strict=True)]).sum(0)


@dataclass(frozen=True)
class Adam:
    """What Adam keeps at a checkpoint.

    Attributes:
        mean, square: m and v, flat (p,), in the order of θ.
        step: steps taken so far.
        betas, epsilon: as it was set.
    """

    mean: Float[Tensor, "p"]
    square: Float[Tensor, "p"]
    step: int
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def update(self, gradients: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        """The update Adam would make on each gradient: m̂/(√v̂ + ε) of its next step."""
        (first, second), step = self.betas, self.step + 1
        mean = (first * self.mean + (1 - first) * gradients) / (1 - first**step)
        square = (second * self.square + (1 - second) * gradients.square()) / (1 - second**step)
        return mean / (square.sqrt() + self.epsilon)


def less(
    checkpoints: Sequence[Objective],
    query: Any,
    rates: Sequence[float],
    moments: Sequence[Adam],
    projection: Projection | None = None,
) -> Float[Tensor, "m n"]:
    """Σ_c η_c cos(∇ℓ_q(θ_c), Γᵢ(θ_c)), Γ Adam's update: LESS (Xia, Malladi, Gururangan, Arora & Chen 2024).

    Args:
        moments: Adam's state at each checkpoint.
        projection: a random projection of both sides, as the paper does to store them; None for none.

    Raises:
        ConfigError: not one rate and one state a checkpoint.

    Error and cost:
        n·p numbers a checkpoint.
    """
    require_as_many("less", checkpoints, rates, moments)
    scores = []
    for one, eta, adam in zip(checkpoints, rates, moments, strict=True):
        asked, updates = rows(one, query).dense(), adam.update(rows(one).dense())
        pair = (asked, updates) if projection is None else (asked @ projection, updates @ projection)
        scores.append(eta * cosines(*pair))
    return torch.stack(scores).sum(0)


def cosines(first: Float[Tensor, "m p"], second: Float[Tensor, "n p"]) -> Float[Tensor, "m n"]:
    """The cosine of every pair of rows; zero where a row is zero."""
    units = [part / part.norm(dim=1, keepdim=True).clamp_min(torch.finfo(part.dtype).tiny) for part in (first, second)]
    return units[0] @ units[1].T


def require_as_many(name: str, checkpoints: Sequence[Any], *others: Sequence[Any]) -> None:
    """Refuse unless there is one of each a checkpoint, and at least one.  ConfigError."""
    counts = [len(checkpoints), *map(len, others)]
    if len(set(counts)) > 1 or not counts[0]:
        raise ConfigError(
            f"{name} found {' and '.join(map(str, counts))} checkpoints, rates and states. Expected one of each a checkpoint, and at least one."
        )
