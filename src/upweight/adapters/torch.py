"""An ``nn.Module``, its data and its loss as an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from upweight._typing import Tensor
from upweight.adapters.adapted import Adapted, PlainCodec, RandomisedCodec
from upweight.errors import ConfigError, ModelError, NonFiniteInput, ShapeError
from upweight.gradients.guard import ForwardModule, as_found, called, compiled, require_values
from upweight.gradients.vmap import refused_in_words
from upweight.objective import Examples, Forward, Loss, Objective, Penalty, plain_forward, read_loss, read_penalty
from upweight.objective.data import map_tensors
from upweight.objective.randomised import Averaged, Randomised
from upweight.parallel import HERE, Fold, plain_module
from upweight.space import ParameterSpace, matching

COMPILED = "The compiled model is scored as the module it was compiled from, whose outputs are the same up to rounding"
"""Said of every answer about a model that torch.compile returned."""


@dataclass(frozen=True)
class Form:
    """How a model is read: loss, forward, tracked parameters, weights, penalty, batch size, device and ranks."""

    loss: Any
    forward: Forward | None = None
    parameters: str | Sequence[str] = "*"
    weights: Any = None
    penalty: Penalty = None
    batch_size: int | str = "auto"
    device: str | torch.device | None = None
    precision: str | None = None
    ranks: Fold | None = None


def adapt_module(model: nn.Module, data: Any, form: Form, ids: Any = None) -> Adapted:
    """Read a module as an objective with the mean loss, or the user's weights.

    Raises:
        ModelError: nothing to track.
        ConfigError: an unknown parameter, loss or penalty.
        InputError: data, weights or parameters that cannot be scored.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"found a model of type {type(model).__name__}. Expected an nn.Module; for scikit-learn estimators use uw.from_sklearn(fitted, X, y)."
        )
    require_values(model)
    fold = form.ranks or HERE
    notes = (COMPILED,) if compiled(model) else ()
    model, said = plain_module(uncompiled(model), fold)
    if form.device is not None:
        _same_device(model, form.device)
    tracked = _tracked(model, form.parameters)
    space = ParameterSpace.of(tracked)
    theta = space.flatten(tracked)
    forward, loss = form.forward or plain_forward, read_loss(form.loss)
    codec: PlainCodec = PlainCodec(theta.dtype)
    if isinstance(forward, Randomised):
        codec, loss = RandomisedCodec(theta.dtype), Averaged(loss, forward.draws)
    examples = codec.read(data, "training set", ids)
    loss, trailing = _bind(model, forward, loss, examples, theta)
    weights = read_weights(form.weights, len(examples)).to(theta.device)
    penalty = read_penalty(form.penalty, space)
    objective = Objective(
        model,
        forward,
        loss,
        examples,
        weights,
        penalty,
        space,
        theta,
        trailing,
        _size(form.batch_size),
        _precision(form.precision, theta),
        fold=fold,
    )
    was_training = any(module.training for module in model.modules())
    return Adapted(objective, "fixed_mean", codec, (*notes, *said), was_training)


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that torch.compile was given, where a model is what it returned; else the model."""
    found = model._modules["_orig_mod"] if compiled(model) else model
    assert isinstance(found, nn.Module)
    return found


def read_weights(weights: Any, count: int) -> Tensor:
    """Training weights wᵢ, 1/n each unless given.

    Raises:
        ShapeError, NonFiniteInput, ConfigError: weights of the wrong number, not finite, or without positive total.
    """
    if weights is None:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    try:
        found = torch.tensor(np.asarray(weights), dtype=torch.float64)  # a copy: the caller may write to theirs
    except (TypeError, ValueError) as reason:
        raise ConfigError(f"found weights that are no numbers: {reason}. Expected ({count},) numbers.") from reason
    if found.shape != (count,):
        raise ShapeError(
            f"found weights of shape {tuple(found.shape)} for {count} training examples. Expected ({count},)."
        )
    if not torch.isfinite(found).all():
        raise NonFiniteInput(
            f"the weight of training example {int((~torch.isfinite(found)).nonzero()[0])} is not finite. Expected finite weights."
        )
    if not bool((found >= 0).all()) or not float(found.sum()) > 0:
        raise ConfigError(
            "found a negative weight, or weights that sum to zero. Expected weights of zero or more with a positive sum."
        )
    return found


def _tracked(model: nn.Module, patterns: str | Sequence[str]) -> dict[str, Tensor]:
    """Tracked parameters: those that match and, for the pattern '*', require gradients."""
    named = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad or patterns != "*"}
    if not named:
        raise ModelError(
            "no parameter is tracked: the model has none that requires gradients. Expected at least one; call requires_grad_(True), or name them in parameters=."
        )
    chosen = {name: named[name] for name in matching(list(named), patterns)}
    kinds = {value.dtype for value in chosen.values()}
    if len(kinds) > 1 or not next(iter(kinds)).is_floating_point:
        raise ModelError(
            f"tracked parameters have types {', '.join(sorted(map(str, kinds)))}. Expected one floating-point type; convert the model with model.double() or model.float()."
        )
    for name, value in chosen.items():
        if not torch.isfinite(value).all():
            raise NonFiniteInput(
                f"parameter {name!r} holds NaN or infinity. Expected finite parameters; the training run diverged."
            )
    return chosen


def _bind(
    model: nn.Module, forward: Forward, loss: Loss, examples: Examples, theta: Tensor
) -> tuple[Loss, tuple[int, ...]]:
    """Run one example to learn the shape of its outputs, and check it against its target."""
    batch = map_tensors(examples.read(slice(0, min(2, len(examples)))), lambda tensor: tensor.to(theta.device))
    if forward is plain_forward and not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ConfigError(
            f"batches are {type(batch).__name__}s, not (inputs, targets). Expected a forward for them; pass forward=lambda model, batch: (outputs, targets)."
        )
    with as_found(model), torch.no_grad():
        buffers = {f"model.{name}": value.clone() for name, value in model.named_buffers()}
        with refused_in_words(batch):
            answered = called(ForwardModule(model, forward), buffers, batch)
    if not (isinstance(answered, tuple | list) and len(answered) == 2):
        raise ShapeError(
            f"the forward returned {type(answered).__name__}. Expected a pair (outputs, targets); return both, as in forward=lambda model, batch: (model(batch['x']), batch['y'])."
        )
    outputs, targets = answered
    if not isinstance(outputs, Tensor) or outputs.ndim < 1 or len(outputs) != min(2, len(examples)):
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ShapeError(
            f"the forward returned outputs {found} for a batch of {min(2, len(examples))}. Expected a tensor with one row an example; pass forward= to pick it out."
        )
    loss.prepare(outputs, targets, examples.ids)
    return loss.bound(tuple(outputs.shape[1:])), tuple(outputs.shape[1:])


def _same_device(model: nn.Module, device: str | torch.device) -> None:
    found = next(model.parameters()).device
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as reason:
        raise ConfigError(
            f"device={device!r} is unknown. Expected a name PyTorch has, such as 'cpu' or 'cuda'."
        ) from reason
    if found.type != wanted.type:
        raise ConfigError(
            f"device={device!r}, but the model is on {found}. Expected them to agree; the model is never moved, so call model.to({str(device)!r}) first."
        )


def _size(batch_size: int | str) -> int | None:
    if batch_size == "auto":
        return None
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ConfigError(f"batch_size={batch_size!r}. Expected a positive integer or 'auto'.")
    return int(batch_size)


def _precision(wanted: str | None, theta: Tensor) -> torch.dtype | None:
    """The type of captured passes, None for the parameters' own."""
    if wanted not in (None, "float32", "bfloat16"):
        raise ConfigError(f"precision={wanted!r} is unknown. Expected 'bfloat16', 'float32' or None, the model's own.")
    if wanted is not None and theta.dtype != torch.float32:
        raise ConfigError(
            f"precision={wanted!r} found parameters of type {theta.dtype}. Expected float32 ones, whose passes it lowers; leave precision out, or convert the model."
        )
    return torch.bfloat16 if wanted == "bfloat16" else None
