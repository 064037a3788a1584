"""Ranks must study the same thing: what each holds is compared before any of it is summed."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.adapters import Adapted
from upweight.errors import DistributedError
from upweight.fitted.settings import Settings
from upweight.objective.data import map_tensors

COMPARED = 8
"""Examples at either end of the training set that are compared."""


def require_alike(adapted: Adapted, settings: Settings) -> Settings:
    """The settings, if all ranks have the same model, data and settings; with the memory of the smallest machine.

    Raises:
        DistributedError: naming what differs, and where.
    """
    fold = adapted.objective.fold
    if fold.size == 1:
        return settings
    held = fold.exchanged("comparing the ranks", _facts(adapted, settings))
    for name in held[0]:
        values = [one[name] for one in held]
        if len(set(values)) > 1:
            said = ", ".join(f"rank {rank} has {value}" for rank, value in enumerate(values))
            raise DistributedError(
                f"the ranks differ in their {name}: {said}. Expected the same on every rank; load the same checkpoint and the whole training set everywhere, the work is shared out here."
            )
    budgets = fold.exchanged("comparing the ranks", settings.budget)
    return settings if len(set(budgets)) == 1 else replace(settings, memory=min(budgets))


def _facts(adapted: Adapted, settings: Settings) -> dict[str, str]:
    o = adapted.objective
    ends = np.unique(np.r_[: min(COMPARED, o.count), max(0, o.count - COMPARED) : o.count])
    found: list[Tensor] = []
    map_tensors(o.examples.read(ends), found.append)
    return {
        "number of training points": str(o.count),
        "tracked parameters": f"{o.space.size} numbers in {len(o.space.names)} tensors {_crc(str(o.space.names))}",
        "parameters' values": _crc(o.theta),
        "training points": _crc(*found),
        "weights": _crc(o.weights),
        "penalty": _crc(o.penalty.diagonal),
        "loss": o.loss.name,
        "settings": str(settings),
    }


def _crc(*values: Any) -> str:
    """CRC-32 of tensors or texts."""
    found = 0
    for value in values:
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        found = zlib.crc32(value if isinstance(value, bytes) else str(value).encode(), found)
    return f"{found:08x}"
