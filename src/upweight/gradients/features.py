"""What a named layer is given for every example: the representation a model makes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, listing
from upweight.gradients.guard import as_found
from upweight.gradients.vmap import VmapEngine
from upweight.objective import Objective, read_examples


def features(objective: Objective, data: Any, layer: str) -> Float[Tensor, "n x"]:
    """The inputs of a layer, flat, one row an example, at θ̂.

    Args:
        data: None for the training set.
        layer: the name of a module, as in ``model.named_modules()``.

    Raises:
        ConfigError: no such layer, or one that is not given one input an example.
    """
    modules = dict(objective.model.named_modules())
    if not layer or layer not in modules:
        raise ConfigError(
            f"no layer is called {layer!r}. Expected one of {listing([name for name in modules if name], 8)}; correct the name."
        )
    engine = VmapEngine(objective)
    examples = objective.examples if data is None else read_examples(data, objective.theta.dtype)
    found = []
    for _, batch in examples.batches(engine.tile):
        seen: list[Tensor] = []
        handle = modules[layer].register_forward_pre_hook(_keeper(seen))
        try:
            with as_found(objective.model), torch.no_grad():
                outputs, _ = engine.run(objective.theta, objective.moved(batch))
        finally:
            handle.remove()
        if len(seen) != 1 or len(seen[0]) != len(outputs):
            raise ConfigError(
                f"layer {layer!r} was called {len(seen)} times for a batch of {len(outputs)} examples. Expected once, with a row an example; name another layer."
            )
        found.append(seen[0].flatten(1))
    return torch.cat(found)


def _keeper(seen: list[Tensor]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0].detach().clone())

    return hook
