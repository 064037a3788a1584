"""A name for what a retraining depends on: the same things, the same name; anything else, another."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from upweight._typing import Tensor
from upweight.store.fingerprints import Digest

LENGTH = 32
"""Hexadecimal digits kept: 128 bits, so that no two retrainings ever meet."""

INSTALLED = ("site-packages", "dist-packages")
"""Where code lies that a version number stands for; it is named, not read."""

STUDIED = ("upweight.study", "upweight.fitted", "upweight.gradients")
"""Rooms whose objects are known by the parameters they study."""


def fingerprint(*things: Any) -> str:
    """A digest of numbers, arrays, modules, functions and what they are made of.

    Arrays count by their bytes, modules by their layers and parameters, functions by their compiled code and by the
    variables they close over or name; what a function reads elsewhere (files, attributes of modules) is not seen.
    """
    walk = _Walk()
    for thing in things:
        walk.add(thing)
    return walk.digest.hex[:LENGTH]


class _Walk:
    """What things are made of, added to a digest, each once."""

    def __init__(self) -> None:
        self.digest = Digest()
        self.seen: dict[int, tuple[int, Any]] = {}

    def word(self, *words: Any) -> None:
        for word in words:
            found = word if isinstance(word, bytes) else str(word).encode()
            self.digest.add(str(len(found)).encode() + b":" + found)

    def add(self, thing: Any) -> None:
        """One thing, by what it is made of."""
        if thing is None or isinstance(thing, bool | int | float | complex | str | bytes):
            self.word(type(thing).__name__, repr(thing))
        elif id(thing) in self.seen:
            self.word("again", self.seen[id(thing)][0])
        else:
            self.seen[id(thing)] = len(self.seen), thing  # held, so that no other thing takes its id
            self._made_of(thing)

    def _made_of(self, thing: Any) -> None:
        match thing:
            case Tensor():
                self._array(np.asarray(thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8)), thing)
            case np.ndarray() if thing.dtype != object:
                self._array(np.ascontiguousarray(thing), thing)
            case nn.Module():
                self._all("module", type(thing), repr(thing), dict(thing.state_dict()))
            case Mapping():
                self._all("mapping", *(part for pair in thing.items() for part in pair))
            case list() | tuple() | np.ndarray():
                self._all(type(thing).__name__, *thing)
            case set() | frozenset():
                self._all("set", *sorted(map(fingerprint, thing)))
            case partial():
                self._all("partial", thing.func, thing.args, thing.keywords)
            case types.MethodType():
                self._all("method", thing.__func__, thing.__self__)
            case types.FunctionType() if _own(thing):
                self._function(thing)
            case types.CodeType():
                self._all("code", thing.co_code, thing.co_names, *thing.co_consts)
            case type() if _own(thing):
                self._all(
                    "class", _name(thing), *(v for v in vars(thing).values() if isinstance(v, types.FunctionType))
                )
            case _:
                self._other(thing)

    def _all(self, kind: str, *parts: Any) -> None:
        self.word(kind, len(parts))
        for part in parts:
            self.add(part)

    def _array(self, contents: np.ndarray, thing: Any) -> None:
        self.word("array", thing.dtype, tuple(thing.shape), contents.tobytes())

    def _function(self, thing: types.FunctionType) -> None:
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        named = [thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__]
        data = [value for value in named if not isinstance(value, types.ModuleType)]
        self._all("function", _name(thing), thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells, data)

    def _other(self, thing: Any) -> None:
        if isinstance(thing, type | types.FunctionType | types.BuiltinFunctionType):
            self.word("named", _name(thing))
        elif type(thing).__module__.startswith(STUDIED):
            self._all("studied", type(thing), thing.objective.theta)  # the rest fills up as questions are asked
        elif is_dataclass(thing):
            self._all("fields", type(thing), *(getattr(thing, field.name) for field in fields(thing)))
        elif hasattr(thing, "__array__"):
            self._all("table", type(thing), np.asarray(thing), list(getattr(thing, "columns", ())))
        elif hasattr(thing, "__dict__"):
            cached = {name for name, value in vars(type(thing)).items() if isinstance(value, cached_property)}
            self._all("object", type(thing), {k: v for k, v in vars(thing).items() if k not in cached})
        else:
            self.word(_name(type(thing)), re.sub(r" at 0x[0-9a-f]+", "", repr(thing)))


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{getattr(thing, '__qualname__', thing)}"


def _own(thing: Any) -> bool:
    """Whether a function or class is the user's: neither installed, nor of Python itself or of this library."""
    module = getattr(thing, "__module__", None) or ""
    top = module.split(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return top not in {"upweight", "builtins", *sys.stdlib_module_names} and not any(part in file for part in INSTALLED)


def _names(code: types.CodeType) -> list[str]:
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return [*code.co_names, *inner]


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is not bound yet
        return False
