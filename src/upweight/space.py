"""The parameter space: which tensors θ is made of, in which order, and where each one, or each linear map, lies."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from upweight._typing import Bool, Float, Int, Tensor
from upweight.errors import ConfigError, ModelError, listing


@dataclass(frozen=True)
class ParameterSpace:
    """Names and shapes of the tracked parameters, in the order in which θ concatenates them.

    Attributes:
        labels: what the user calls every coordinate, where there is more to say than a tensor's name and place.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], labels: Sequence[str] = ()) -> "ParameterSpace":
        """Read names and shapes off named tensors, keeping their order."""
        return cls(tuple(parameters), tuple(tuple(t.shape) for t in parameters.values()), tuple(labels))

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
        """Cut θ into named tensors (views), in one step: a gradient through it is put together once."""
        pieces = theta.split([prod(shape) for shape in self.shapes])
        return {name: piece.reshape(shape) for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)}

    def mask(self, patterns: str | Sequence[str]) -> Float[Tensor, "p"]:
        """One where a coordinate belongs to a parameter whose name matches, zero elsewhere."""
        chosen = set(matching(self.names, patterns))
        mask = torch.zeros(self.size, dtype=torch.float64)
        for name, where in self.slices().items():
            mask[where] = float(name in chosen)
        return mask

    def homes(self) -> dict[int, str]:
        """The module that holds each tensor, by where the tensor begins in θ; '(model)' for the model's own."""
        return {where.start: name.rpartition(".")[0] or "(model)" for name, where in self.slices().items()}

    def coordinates(self) -> list[str]:
        """A name for every coordinate of θ: the user's own, else ``weight[0,3]``, or the bare name of a scalar."""
        if self.labels:
            return list(self.labels)
        return [label for name, shape in zip(self.names, self.shapes, strict=True) for label in _cells(name, shape)]


@dataclass(frozen=True)
class FlatLayout:
    """Where a parameter without further structure lies in θ."""

    size: int
    where: slice

    @property
    def width(self) -> int:
        """How many coordinates it has."""
        return self.where.stop - self.where.start

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Where it begins and ends."""
        return ((self.where.start, self.where.stop),)

    def gather(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k q"]:
        """Its coordinates of rows of θ."""
        return rows[:, self.where]

    def scatter(self, rows: Float[Tensor, "k q"], total: Float[Tensor, "k p"]) -> None:
        """Put its coordinates into rows of θ, in place."""
        total[:, self.where] = rows

    def add_rows(self, rows: Float[Tensor, "k q"], total: Float[Tensor, "k p"]) -> None:
        """Add its coordinates to rows of θ, in place."""
        total[:, self.where] += rows


@dataclass(frozen=True)
class LinearLayout:
    """Where the weight (o, i) and the bias (o,) of one linear map lie in θ.

    The bias is the last column of the augmented weight, whose inputs carry a constant 1. A transposed
    weight is kept as (i, o). A convolution keeps (o, channels, window), and its inputs come window by window,
    (window, channels), which is how they lie in memory when they are cut out.
    """

    outputs: int
    size: int
    weight: slice | None
    bias: slice | None
    transposed: bool = False
    window: int = 1

    @property
    def inputs(self) -> int:
        """i, the constant included where there is a bias."""
        columns = 0 if self.weight is None else (self.weight.stop - self.weight.start) // self.outputs
        return columns + (self.bias is not None)

    def squared_norms(self, inputs: Float[Tensor, "b i"], outputs: Float[Tensor, "b o"]) -> Float[Tensor, "b"]:
        """Squared lengths of the rows g ⊗ a."""
        return torch.linalg.vecdot(inputs, inputs) * torch.linalg.vecdot(outputs, outputs)

    def matrix(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k o i"]:
        """Rows of parameters as augmented weights."""
        parts = []
        if self.weight is not None:
            shape = (-1, self.outputs) if self.transposed else (self.outputs, -1)
            weight = rows[:, self.weight].reshape(len(rows), *shape)
            weight = weight.mT if self.transposed else weight
            parts.append(weight if self.window == 1 else weight.unflatten(2, (-1, self.window)).mT.flatten(2))
        if self.bias is not None:
            parts.append(rows[:, self.bias].unsqueeze(-1))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def rows(self, matrix: Float[Tensor, "k o i"]) -> Float[Tensor, "k p"]:
        """Augmented weights as rows of parameters."""
        rows = matrix.new_zeros(len(matrix), self.size)
        self.scatter(matrix.flatten(1), rows)
        return rows

    @property
    def width(self) -> int:
        """How many coordinates of θ it covers."""
        return self.outputs * self.inputs

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Where its weight and its bias begin and end."""
        return tuple((where.start, where.stop) for where in (self.weight, self.bias) if where is not None)

    def gather(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k q"]:
        """Its coordinates of rows of θ, as augmented weights laid flat."""
        return self.matrix(rows).flatten(1)

    def scatter(self, rows: Float[Tensor, "k q"], total: Float[Tensor, "k p"]) -> None:
        """Put augmented weights laid flat into rows of θ, in place."""
        matrix = rows.view(len(rows), self.outputs, self.inputs)
        columns = self.inputs - (self.bias is not None)
        if self.weight is not None:
            weight = matrix[..., :columns]
            weight = weight if self.window == 1 else weight.unflatten(2, (self.window, -1)).mT.flatten(2)
            total[:, self.weight] = (weight.mT if self.transposed else weight).reshape(len(rows), -1)
        if self.bias is not None:
            total[:, self.bias] = matrix[..., -1]

    def add_rows(self, rows: Float[Tensor, "k q"], total: Float[Tensor, "k p"]) -> None:
        """Add augmented weights laid flat to rows of θ, in place."""
        self.scatter(rows + self.gather(total), total)

    def pieces(self, output: int) -> list[tuple[slice, slice]]:
        """For one output: pairs (where in the augmented inputs, where in θ)."""
        found, width = [], 0
        if self.weight is not None:
            width = (self.weight.stop - self.weight.start) // self.outputs
            start = self.weight.start + output * width
            found.append((slice(0, width), slice(start, start + width)))
        if self.bias is not None:
            found.append((slice(width, width + 1), slice(self.bias.start + output, self.bias.start + output + 1)))
        return found

    def read(self, matrix: Float[Tensor, "p p"], row: int, column: int) -> Float[Tensor, "i i"]:
        """The block of a p × p matrix that couples two outputs."""
        strips = [torch.cat([matrix[r, c] for _, c in self.pieces(column)], 1) for _, r in self.pieces(row)]
        return torch.cat(strips, 0)

    def add(self, matrix: Float[Tensor, "p p"], row: int, column: int, block: Float[Tensor, "i i"]) -> None:
        """Add to the block of a p × p matrix that couples two outputs, in place."""
        for a, r in self.pieces(row):
            for b, c in self.pieces(column):
                matrix[r, c] += block[a, b]


ABSENT, FIXED = -1, -2
"""Cells of a linear map that hold no coordinate of θ: a zero, and a one that is not estimated (an offset's)."""


@dataclass(frozen=True)
class CellLayout:
    """Where θ lies in the weight W (o, i) of a linear map η = Wa, cell by cell.

    A cell holds the index of its coordinate of θ, which several may share, or ABSENT, or FIXED: so outputs
    can have predictors of their own, and a slope in common. ``rows`` is the transpose of ``matrix``.
    """

    size: int
    cells: tuple[tuple[int, ...], ...]

    @property
    def outputs(self) -> int:
        """o."""
        return len(self.cells)

    @property
    def inputs(self) -> int:
        """i."""
        return len(self.cells[0])

    @property
    def width(self) -> int:
        """o·i."""
        return self.outputs * self.inputs

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Where it begins and ends in θ: it is the whole of it."""
        return ((0, self.size),)

    @cached_property
    def index(self) -> Int[Tensor, "o i"]:
        """Coordinates; p, one past the last, where a cell has none."""
        found = torch.tensor(self.cells)
        return torch.where(found < 0, self.size, found)

    def matrix(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k o i"]:
        """Moves of θ as moves of W."""
        return torch.cat([rows, rows.new_zeros(len(rows), 1)], 1)[:, self.index]

    def rows(self, matrix: Float[Tensor, "k o i"]) -> Float[Tensor, "k p"]:
        """Gradients in W as gradients in θ: what cells share is added up."""
        total = matrix.new_zeros(len(matrix), self.size + 1)
        return total.index_add(1, self.index.flatten(), matrix.flatten(1))[:, : self.size]

    def gather(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k q"]:
        """Moves of θ as moves of W, laid flat."""
        return self.matrix(rows).flatten(1)

    def scatter(self, rows: Float[Tensor, "k q"], total: Float[Tensor, "k p"]) -> None:
        """Put gradients in W laid flat into gradients in θ, in place."""
        total.copy_(self.rows(rows.view(len(rows), self.outputs, self.inputs)))

    def add_rows(self, rows: Float[Tensor, "k q"], total: Float[Tensor, "k p"]) -> None:
        """Add gradients in W laid flat to gradients in θ, in place."""
        total += self.rows(rows.reshape(len(rows), self.outputs, self.inputs))

    def squared_norms(self, inputs: Float[Tensor, "b i"], outputs: Float[Tensor, "b o"]) -> Float[Tensor, "b"]:
        """Squared lengths of the rows g ⊗ a as they lie in θ."""
        rows = self.rows(outputs.unsqueeze(2) * inputs.unsqueeze(1))
        return torch.linalg.vecdot(rows, rows)

    def read(self, matrix: Float[Tensor, "p p"], row: int, column: int) -> Float[Tensor, "i i"]:
        """The block of a p × p matrix that couples two outputs."""
        (r, real_r), (c, real_c) = self._coordinates(row), self._coordinates(column)
        return matrix[r.clamp(max=self.size - 1)][:, c.clamp(max=self.size - 1)] * (real_r[:, None] & real_c)

    def read_row(self, matrix: Float[Tensor, "p p"], row: int) -> Float[Tensor, "i q"]:
        """The blocks that couple one output with each, side by side."""
        (r, real_r), c = self._coordinates(row), self.index.flatten()
        return matrix[r.clamp(max=self.size - 1)][:, c.clamp(max=self.size - 1)] * (real_r[:, None] & (c < self.size))

    def add(self, matrix: Float[Tensor, "p p"], row: int, column: int, block: Float[Tensor, "i i"]) -> None:
        """Add to the block of a p × p matrix that couples two outputs, in place."""
        (r, real_r), (c, real_c) = self._coordinates(row), self._coordinates(column)
        matrix.index_put_((r[real_r][:, None], c[real_c][None]), block[real_r][:, real_c], accumulate=True)

    def _coordinates(self, output: int) -> tuple[Int[Tensor, "i"], Bool[Tensor, "i"]]:
        """The coordinates of one output's cells, and which of them there are."""
        found = self.index[output]
        return found, found < self.size


MapLayout = LinearLayout | CellLayout
"""Where the weight of a linear map lies in θ."""

Layout = LinearLayout | CellLayout | FlatLayout


def matching(names: Sequence[str], patterns: str | Sequence[str]) -> list[str]:
    """The names that match a shell-style pattern, or any of several; a pattern must match something."""
    if not isinstance(patterns, str | Sequence) or not all(isinstance(one, str) for one in patterns):
        raise ConfigError(f"found {patterns!r} for names of parameters. Expected a name, a pattern, or a list of them.")
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
