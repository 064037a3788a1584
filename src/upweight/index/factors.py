"""Block-diagonal curvature and projections as named arrays and a description, for a store that holds no code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from upweight._typing import Tensor
from upweight.errors import ConfigError
from upweight.linop import (
    BlockDiagonal,
    BlockProjection,
    Dense,
    Diagonal,
    Gaussian,
    Hashed,
    Identity,
    Kronecker,
    KroneckerEigen,
    LinearOperator,
    Picked,
    Projection,
    Sided,
)
from upweight.space import CellLayout, FlatLayout, Layout, LinearLayout

Described = list[dict[str, Any]]
Arrays = dict[str, np.ndarray]

HELD = {
    "Dense": ("matrix",),
    "Diagonal": ("entries",),
    "Identity": (),
    "Kronecker": ("left", "right"),
    "KroneckerEigen": ("left", "right", "values"),
    "Gaussian": (),
    "Hashed": ("left", "right", "scale", "signs"),
    "Picked": ("places",),
    "Sided": ("left", "right", "places"),
}
"""The tensors that each kind of block is made of."""


def written(operator: BlockDiagonal | BlockProjection, prefix: str) -> tuple[Arrays, Described]:
    """Arrays by name, and what each part is.

    Raises:
        ConfigError: a block of another kind.
    """
    arrays, described = {}, []
    for place, (layout, block) in enumerate(operator.parts):
        kind = type(block).__name__
        if kind not in HELD:
            raise ConfigError(
                f"a store found a {kind} in block-diagonal curvature. Expected one of {', '.join(HELD)}; use curvature='ekfac'."
            )
        held = [name for name in HELD[kind] if getattr(block, name) is not None]
        arrays |= {f"{prefix}{place}.{name}": getattr(block, name).detach().cpu().numpy() for name in held}
        described.append({"kind": kind, "layout": _layout_written(layout), "held": held, **_numbers(block)})
    return arrays, described


def blocks(arrays: Arrays, described: Described, prefix: str, size: int) -> BlockDiagonal:
    """The block-diagonal matrix that was written."""
    return BlockDiagonal(size, tuple(_parts(arrays, described, prefix, size)))  # pyright: ignore


def projection(arrays: Arrays, described: Described, prefix: str, size: int) -> BlockProjection:
    """The projection that was written."""
    return BlockProjection(size, tuple(_parts(arrays, described, prefix, size)))  # pyright: ignore


def _parts(
    arrays: Arrays, described: Described, prefix: str, size: int
) -> list[tuple[Layout, LinearOperator | Projection]]:
    found = []
    for place, said in enumerate(described):
        held = {name: torch.from_numpy(arrays[f"{prefix}{place}.{name}"]) for name in said["held"]}
        found.append((_layout_read(said["layout"], size), _block(said, held)))
    return found


def _block(said: dict[str, Any], held: dict[str, Tensor]) -> LinearOperator | Projection:
    match said["kind"]:
        case "Dense":
            return Dense(held["matrix"], is_symmetric=True)
        case "Diagonal":
            return Diagonal(held["entries"])
        case "Identity":
            return Identity(said["length"])
        case "Kronecker":
            return Kronecker(held["left"], held["right"])
        case "KroneckerEigen":
            return KroneckerEigen(held["left"], held["right"], held["values"])
        case "Gaussian":
            return Gaussian(said["length"], said["kept"], said["seed"])
        case "Hashed":
            return Hashed(held.get("left"), held.get("right"), held["scale"], held["signs"], said["kept"])
        case "Picked":
            return Picked(said["length"], held["places"])
    return Sided(held["left"], held["right"], held.get("places"))


def _numbers(block: LinearOperator | Projection) -> dict[str, int]:
    """What a block is made of besides tensors."""
    match block:
        case Identity():
            return {"length": block.width}
        case Gaussian():
            return {"length": block.length, "kept": block.kept, "seed": block.seed}
        case Hashed():
            return {"kept": block.kept}
        case Picked():
            return {"length": block.length}
    return {}


def _layout_written(layout: Layout) -> dict[str, Any]:
    if isinstance(layout, FlatLayout):
        return {"where": _ends(layout.where)}
    if not isinstance(layout, LinearLayout):
        return {"size": layout.size, "cells": layout.cells}
    sides = {"weight": _ends(layout.weight), "bias": _ends(layout.bias)}
    return {"outputs": layout.outputs, "transposed": layout.transposed, "window": layout.window, **sides}


def _layout_read(said: dict[str, Any], size: int) -> Layout:
    if "where" in said:
        return FlatLayout(size, slice(*said["where"]))
    if "cells" in said:
        return CellLayout(said["size"], tuple(map(tuple, said["cells"])))
    weight, bias = (None if said[name] is None else slice(*said[name]) for name in ("weight", "bias"))
    return LinearLayout(said["outputs"], size, weight, bias, said["transposed"], said["window"])


def _ends(where: slice | None) -> list[int] | None:
    return None if where is None else [where.start, where.stop]
