"""Models that DDP or FSDP2 (``fully_shard``) wrapped, as the plain modules they were."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from upweight.errors import ConfigError, DistributedError, ModelError
from upweight.parallel.fold import Fold, Here

GATHERED = "The sharded model is scored as a plain copy with all of its parameters, in their own type; the model itself stays sharded"
"""Said of every answer about a model that fully_shard has taken apart."""


def plain_module(model: nn.Module, fold: Fold) -> tuple[nn.Module, tuple[str, ...]]:
    """The module inside DDP; a copy of a sharded one with its parameters gathered on every rank; any other as it is.

    Raises:
        ConfigError: a sharded model without ranks to gather it from.
        ModelError: wrapped in a way that is not known here.
    """
    kind = type(model).__name__
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return plain_module(model.module, fold)
    if kind == "FullyShardedDataParallel":
        raise ModelError(
            "found a model in FullyShardedDataParallel (FSDP1), whose parameters are laid flat. Expected fully_shard (FSDP2), DDP, or the plain module with its full state dict; load it into one."
        )
    if not any(_sharded(tensor) for tensor in (*model.parameters(), *model.buffers())) and not _wrapped(model):
        return model, ()
    if isinstance(fold, Here):
        raise ConfigError(
            "found a model that fully_shard has spread over ranks. Expected the ranks as well: Study(model, ..., ranks=uw.ranks()), on every one of them."
        )
    return _gathered(model, fold), (GATHERED,)


def _sharded(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")


def _wrapped(model: nn.Module) -> list[nn.Module]:
    """Modules that fully_shard has given another class."""
    return [one for one in model.modules() if any(kind.__name__ == "FSDPModule" for kind in type(one).__mro__)]


def _gathered(model: nn.Module, fold: Fold) -> nn.Module:
    """A copy without shards or their hooks: every rank takes part, layer by layer."""
    wrapped = _wrapped(model)
    for module in wrapped:
        module.reshard()  # pyright: ignore[reportCallIssue]
    fold.exchanged("gathering the model", None)
    memo: dict[int, Any] = {}
    try:
        for tensor in (*model.parameters(), *model.buffers()):
            if _sharded(tensor) and id(tensor) not in memo:
                memo[id(tensor)] = _whole(tensor)
    except RuntimeError as error:
        raise DistributedError(
            f"the shards of the model could not be gathered: {error}. Expected every rank to hold its own; build the study on all of them."
        ) from error
    for module in wrapped:
        memo[id(module)] = (kind := type(module).__mro__[2]).__new__(kind)  # pyright: ignore - the class it had, after FSDPModule
    for module in wrapped:
        memo[id(module)].__dict__.update(copy.deepcopy(_own(module), memo))
    return copy.deepcopy(model, memo)


def _own(module: nn.Module) -> dict[str, Any]:
    """What a module held before it was sharded."""
    added = ("__composable_api", "_is_fsdp", "_fsdp")
    return {
        name: _without_hooks(value) if name.endswith("_hooks") else value
        for name, value in module.__dict__.items()
        if not name.startswith(added)
    }


def _whole(tensor: Any) -> torch.Tensor:
    found = tensor.detach().full_tensor()
    return nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else found


def _without_hooks(hooks: Any) -> Any:
    """A table of hooks without those that gather and free shards."""
    return type(hooks)((key, hook) for key, hook in hooks.items() if not _of_shards(hook))


def _of_shards(hook: Any) -> bool:
    hook = getattr(hook, "hook", hook)  # torch wraps some
    found = type(hook.__self__) if hasattr(hook, "__self__") else hook
    return str(getattr(found, "__module__", "")).startswith("torch.distributed")
