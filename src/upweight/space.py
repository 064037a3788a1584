"""The parameter space: which tensors θ is made of, in which order, and where each one lies."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, ModelError, listing


@dataclass(frozen=True)
class ParameterSpace:
    """Names and shapes of the tracked parameters, in the order in which θ concatenates them."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> "ParameterSpace":
        """Read names and shapes off named tensors, keeping their order."""
        return cls(tuple(parameters), tuple(tuple(t.shape) for t in parameters.values()))

    @property
    def size(self) -> int:
        """p, the length of θ."""
        return sum(prod(shape) for shape in self.shapes)

    def slices(self) -> dict[str, slice]:
        """Where each tensor lies in θ."""
        found, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            found[name] = slice(start, start + prod(shape))
            start += prod(shape)
        return found

    def flatten(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, "p"]:
        """Concatenate named tensors into θ."""
        return torch.cat([parameters[name].reshape(-1) for name in self.names])

    def unflatten(self, theta: Float[Tensor, "p"]) -> dict[str, Tensor]:
        """Cut θ into named tensors (views)."""
        pieces = zip(self.slices().items(), self.shapes, strict=True)
        return {name: theta[where].reshape(shape) for (name, where), shape in pieces}

    def mask(self, patterns: str | Sequence[str]) -> Float[Tensor, "p"]:
        """One where a coordinate belongs to a parameter whose name matches, zero elsewhere."""
        chosen = set(matching(self.names, patterns))
        mask = torch.zeros(self.size, dtype=torch.float64)
        for name, where in self.slices().items():
            mask[where] = float(name in chosen)
        return mask

    def coordinates(self) -> list[str]:
        """A name for every coordinate of θ: ``weight[0,3]``, or the bare name of a scalar."""
        return [label for name, shape in zip(self.names, self.shapes, strict=True) for label in _cells(name, shape)]


def matching(names: Sequence[str], patterns: str | Sequence[str]) -> list[str]:
    """The names that match a shell-style pattern, or any of several; a pattern must match something."""
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in wanted:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(
                f"no parameter is called {pattern!r}. Found: {listing(names, 8)}. "
                "Expected a name or a shell-style pattern such as 'head.*'; correct it, or use '*' for all."
            )
    chosen = [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in wanted)]
    if not chosen:
        raise ModelError("no parameter is tracked. Expected at least one; pass parameters='*' or a pattern.")
    return chosen


def _cells(name: str, shape: tuple[int, ...]) -> list[str]:
    if not shape:
        return [name]
    return [
        f"{name}[{','.join(map(str, cell))}]"
        for cell in torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist()
    ]
