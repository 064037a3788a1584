"""Losses with chance in them: the average over seeded draws, each example's noise its own.

    ℓᵢ(θ) = (1/k) Σ_d ℓ(η(xᵢ, noise(seed, d, idᵢ); θ), y)

Dropout that is kept, the noise of a diffusion model, a sampled latent: once the seeds are fixed ℓᵢ is a
function of θ like any other. The noise of an example depends on its id and the draw, never on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from upweight._typing import Batch, Float, Int, Tensor
from upweight.errors import ConfigError
from upweight.objective.data import Examples, map_tensors
from upweight.objective.loss import Loss

Drawn = Callable[[nn.Module, Batch, torch.Generator], tuple[Tensor, Tensor]]
"""(model, one example as a batch of 1, generator) → (outputs, targets)."""


@dataclass(frozen=True)
class Randomised:
    """A forward with chance in it, for ``Study(forward=...)``: every example is run ``draws`` times under its own seeds.

    Args:
        forward: (model, batch, generator) → (outputs, targets) for a batch of one example; all noise from the
            generator, or from torch's global one, which is seeded alike and handed back as found. None calls
            ``model(inputs)`` of (inputs, targets).
        draws: k, over which the loss is averaged.
        seed: other seeds are other noise.
        dropout: keep the model's dropout layers switched on.

    Raises:
        ConfigError: draws below 1.

    Error and cost:
        Exact for the averaged loss; its spread over seeds falls as 1/k. One forward and backward pass an example
        and draw, one at a time: no layer rules and no vectorisation.
    """

    forward: Drawn | None = None
    draws: int = 1
    seed: int = 0
    dropout: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int) or self.draws < 1:
            raise ConfigError(f"Randomised found draws={self.draws!r}. Expected a whole number of 1 or more.")

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs (b, draws, ...) and targets (b, draws, ...) of examples read with their keys."""
        if self.dropout:
            for module in model.modules():
                if isinstance(module, _DropoutNd):
                    module.train()
        keys, outputs, targets = batch["keys"], [], []
        for place in range(len(keys)):
            one = map_tensors(batch["examples"], lambda t, place=place: t[place : place + 1])
            drawn = [self._draw(model, one, int(keys[place]), draw) for draw in range(self.draws)]
            outputs.append(torch.stack([found[0][0] for found in drawn]))
            targets.append(torch.stack([found[1][0] for found in drawn]))
        answers = torch.stack(targets)
        return torch.stack(outputs), answers[:, 0] if answers.shape[2:] == (0,) else answers

    def _draw(self, model: nn.Module, one: Batch, key: int, draw: int) -> tuple[Tensor, Tensor]:
        mixed = hashed(f"{self.seed}, {draw}, {key}")
        torch.manual_seed(mixed)  # inside the guard that hands the random state back
        if self.forward is None:
            inputs, targets = one
            return model(inputs), targets
        generator = torch.Generator(next(model.parameters()).device).manual_seed(mixed)
        return self.forward(model, one, generator)


def hashed(text: str) -> int:
    """63 bits of a text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True)
class Keyed(Examples):
    """Examples together with a number of their own: their id's."""

    source: Examples
    keys: Int[Tensor, "n"]

    @classmethod
    def of(cls, source: Examples) -> Keyed:
        """Keys from the ids."""
        return cls(source, torch.tensor([hashed(str(name)) for name in source.ids.tolist()]))

    @property
    def ids(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.source.ids

    def __len__(self) -> int:
        return len(self.source)

    def read(self, where: slice | np.ndarray) -> Batch:
        chosen = torch.as_tensor(where) if isinstance(where, np.ndarray) else where
        return {"examples": self.source.read(where), "keys": self.keys[chosen]}


@dataclass(frozen=True)
class Averaged(Loss):
    """The mean of another loss over k draws of an example, whose outputs are (b, k, ...) before they are flattened."""

    base: Loss
    draws: int
    kind = "free"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{self.base.name}, averaged over {self.draws} draws"

    @property
    def unit(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.unit

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._each(outputs, self.base.values(*self._apart(outputs, targets))).mean(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.base.gradient(*self._apart(outputs, targets)).reshape(outputs.shape) / self.draws

    def hessian(self, outputs: Tensor, targets: Tensor) -> Tensor:
        blocks = self._each(outputs, self.base.hessian(*self._apart(outputs, targets)))  # (b, k, o, o)
        return torch.stack([torch.block_diag(*draws) for draws in blocks]) / self.draws

    def root(self, outputs: Tensor, targets: Tensor) -> Tensor:
        blocks = self._each(outputs, self.base.root(*self._apart(outputs, targets)))
        return torch.stack([torch.block_diag(*draws) for draws in blocks]) / self.draws**0.5

    def bound(self, trailing: tuple[int, ...]) -> Loss:
        return replace(self, base=self.base.bound(trailing[1:]))

    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Tensor, Tensor]:
        repeated = np.repeat(np.asarray(names, dtype=object), self.draws) if len(names) else ()
        flat, answers = self.base.prepare(outputs.flatten(0, 1), targets.flatten(0, 1), repeated)
        return flat.reshape(len(outputs), -1), self._each(outputs, answers)

    def require_labels(self, targets: Tensor, names: Sequence[Any] | np.ndarray) -> None:
        self.base.require_labels(targets[:, 0], names)

    def _apart(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Every draw as an example of its own."""
        return outputs.reshape(len(outputs) * self.draws, -1), targets.flatten(0, 1)

    def _each(self, outputs: Tensor, values: Tensor) -> Tensor:
        return values.reshape(len(outputs), self.draws, *values.shape[1:])
