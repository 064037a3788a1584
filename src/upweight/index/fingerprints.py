"""What an index was made of: fingerprints of the model, the data, the settings and the code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.fitted import Fitted
from upweight.objective import Examples
from upweight.objective.data import map_tensors
from upweight.store.fingerprints import digest, digest_folder, digest_text

READ = 1024
"""Examples a fingerprint reads at a time: fixed, since padding may depend on it."""

SOURCE = Path(__file__).resolve().parent.parent


def fingerprints(fitted: Fitted) -> dict[str, Any]:
    """Everything the compressed gradients depend on, by name."""
    objective, settings = fitted.objective, fitted.settings
    space = objective.space
    return {
        "model": model_fingerprint(fitted),
        "data": data_fingerprint(objective.examples),
        "settings.weights": digest([("weights", objective.weights.cpu().numpy())]),
        "settings.parameters": digest_text(f"{n} {s}" for n, s in zip(space.names, space.shapes, strict=True)),
        "settings.penalty": digest([("penalty", objective.penalty.diagonal.cpu().numpy())]),
        "settings.loss": _described(objective.loss),
        "settings.forward": _described(objective.forward),
        "settings.curvature": fitted.kind,
        "settings.fisher": settings.fisher,
        "settings.seed": settings.seed,
        "settings.factor_share": settings.factor_share,
        "settings.precision": settings.precision,
    }


def code_fingerprints() -> dict[str, Any]:
    """Of this library and of PyTorch: what the last bits of a row depend on besides."""
    return {"code.upweight": version("upweight"), "code.source": digest_folder(SOURCE), "code.torch": torch.__version__}


def model_fingerprint(fitted: Fitted) -> str:
    """Of every parameter and buffer, tracked or not, and of θ̂."""
    model, theta = fitted.objective.model, fitted.objective.theta
    named = [*model.named_parameters(), *model.named_buffers(), ("θ", theta)]
    return digest((f"{name} {tensor.dtype}", _bytes(tensor)) for name, tensor in named)


def data_fingerprint(examples: Examples, named: bool = True) -> str:
    """Of all examples, in order, with their names or without."""
    return digest(_pieces(examples, named))


def _pieces(examples: Examples, named: bool) -> Iterator[tuple[str, np.ndarray]]:
    if named:
        yield "ids", np.asarray(examples.ids)
    for where, batch in examples.batches(READ):
        leaves: list[Tensor] = []
        map_tensors(batch, lambda tensor, leaves=leaves: leaves.append(tensor))
        for place, tensor in enumerate(leaves):
            yield f"{where.start} {place} {tensor.dtype}", _bytes(tensor)


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _described(thing: Any) -> str:
    """A loss or a function in words that do not change from run to run: names, plain settings, and its code."""
    if is_dataclass(thing):
        held = {field.name: getattr(thing, field.name) for field in fields(thing)}
        said = {name: _described(value) if callable(value) else repr(value) for name, value in held.items()}
        return f"{type(thing).__name__}({', '.join(f'{name}={value}' for name, value in said.items())})"
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    code = _code(thing)
    return name if code is None else f"{name} {digest_text([code])[:16]}"


def _code(function: Callable[..., Any] | Any) -> str | None:
    """The instructions and constants of a Python function, nested ones included; None for anything else."""
    code = getattr(function, "__code__", None)
    return None if code is None else _instructions(code)


def _instructions(code: Any) -> str:
    constants = [_instructions(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
