"""Matrices with one row, or one Jacobian, an example, read tile by tile and never held whole.

A tile of gradients is a Block: Dense (b, p), or Factored g ⊗ a where the layer is linear and the
row is an outer product. A tile of output Jacobians Jᵢ = ∂ηᵢ/∂θ is dense (b, o, p), or Linear, where
Jᵢ = I ⊗ aᵢ and nothing of size p is formed for an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from upweight._typing import Float, Int, Tensor
from upweight.linop import LinearOperator


@dataclass(frozen=True)
class LinearLayout:
    """Where the weight (o, i) and the bias (o,) of one linear map lie in θ.

    The bias is the last column of the augmented weight, whose inputs carry a constant 1.
    """

    outputs: int
    size: int
    weight: slice | None
    bias: slice | None

    def matrix(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k o i"]:
        """Rows of parameters as augmented weights."""
        parts = []
        if self.weight is not None:
            parts.append(rows[:, self.weight].reshape(len(rows), self.outputs, -1))
        if self.bias is not None:
            parts.append(rows[:, self.bias].unsqueeze(-1))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def rows(self, matrix: Float[Tensor, "k o i"]) -> Float[Tensor, "k p"]:
        """Augmented weights as rows of parameters."""
        rows = matrix.new_zeros(len(matrix), self.size)
        columns = matrix.shape[-1] - (self.bias is not None)
        if self.weight is not None:
            rows[:, self.weight] = matrix[..., :columns].reshape(len(matrix), -1)
        if self.bias is not None:
            rows[:, self.bias] = matrix[..., -1]
        return rows

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


class Block(ABC):
    """A tile of b rows of length p."""

    @abstractmethod
    def __len__(self) -> int:
        """b."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "b p"]:
        """The rows, written out."""

    @abstractmethod
    def against(self, rows: Float[Tensor, "m p"]) -> Float[Tensor, "b m"]:
        """Inner products of every row of the tile with every given row."""

    @abstractmethod
    def sum(self, weights: Float[Tensor, "b"]) -> Float[Tensor, "p"]:
        """The weighted sum of the rows."""

    @abstractmethod
    def squared_norms(self) -> Float[Tensor, "b"]:
        """The squared length of each row."""


@dataclass(frozen=True)
class DenseBlock(Block):
    """Rows held as they are."""

    values: Float[Tensor, "b p"]

    def __len__(self) -> int:
        return len(self.values)

    def dense(self) -> Tensor:
        return self.values

    def against(self, rows: Tensor) -> Tensor:
        return self.values.to(rows.dtype) @ rows.T  # (b, m)

    def sum(self, weights: Tensor) -> Tensor:
        return weights @ self.values.to(weights.dtype)  # (p,)

    def squared_norms(self) -> Tensor:
        return torch.linalg.vecdot(self.values, self.values)  # (b,)


@dataclass(frozen=True)
class FactoredBlock(Block):
    """Rows gᵢ ⊗ aᵢ of a linear map: output gradients g and augmented inputs a."""

    inputs: Float[Tensor, "b i"]
    outputs: Float[Tensor, "b o"]
    layout: LinearLayout

    def __len__(self) -> int:
        return len(self.inputs)

    def dense(self) -> Tensor:
        return self.layout.rows(self.outputs.unsqueeze(2) * self.inputs.unsqueeze(1))  # (b, p)

    def against(self, rows: Tensor) -> Tensor:
        weights = self.layout.matrix(rows)  # (m, o, i)
        products = self.inputs.to(rows.dtype) @ weights.flatten(0, 1).T  # (b, m·o)
        outputs = self.outputs.to(rows.dtype)
        if outputs.shape[1] == 1:
            return products.mul_(outputs)  # (b, m)
        return torch.einsum("bmo,bo->bm", products.view(len(self), *weights.shape[:2]), outputs)

    def sum(self, weights: Tensor) -> Tensor:
        scaled = self.outputs.to(weights.dtype) * weights.unsqueeze(1)
        return self.layout.rows((scaled.T @ self.inputs.to(weights.dtype)).unsqueeze(0))[0]  # (p,)

    def squared_norms(self) -> Tensor:
        return torch.linalg.vecdot(self.inputs, self.inputs) * torch.linalg.vecdot(self.outputs, self.outputs)  # (b,)


class Jacobian(ABC):
    """A tile of output Jacobians Jᵢ = ∂ηᵢ/∂θ, each (o, p)."""

    @abstractmethod
    def __len__(self) -> int:
        """b."""

    @abstractmethod
    def vjp(self, outputs: Float[Tensor, "b o"]) -> Block:
        """The rows Jᵢᵀuᵢ."""

    @abstractmethod
    def jvp(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "b o k"]:
        """The first-order shift of every output under each of k moves of θ."""

    @abstractmethod
    def sandwich(self, operator: LinearOperator) -> Float[Tensor, "b o o"]:
        """Jᵢ A Jᵢᵀ."""

    @abstractmethod
    def add_gram(self, curvature: Float[Tensor, "b o o"], total: Float[Tensor, "p p"]) -> None:
        """Add Σ Jᵢᵀ Mᵢ Jᵢ, M symmetric, to a p × p matrix in place."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "b o p"]:
        """The Jacobians, written out."""

    @abstractmethod
    def select(self, chosen: Int[Tensor, "k"]) -> Jacobian:
        """Some of the examples."""


@dataclass(frozen=True)
class DenseJacobian(Jacobian):
    """Jacobians held as they are."""

    values: Float[Tensor, "b o p"]

    def __len__(self) -> int:
        return len(self.values)

    def vjp(self, outputs: Tensor) -> Block:
        return DenseBlock(torch.einsum("bo,bop->bp", outputs, self.values.to(outputs.dtype)))

    def jvp(self, rows: Tensor) -> Tensor:
        return self.values.to(rows.dtype) @ rows.T  # (b, o, k)

    def sandwich(self, operator: LinearOperator) -> Tensor:
        matrix = operator.dense()
        values = self.values.to(matrix.dtype)
        return (values @ matrix) @ values.transpose(1, 2)  # (b, o, o)

    def add_gram(self, curvature: Tensor, total: Tensor) -> None:
        values = self.values.to(total.dtype)
        total += values.flatten(0, 1).T @ (curvature.to(total.dtype) @ values).flatten(0, 1)

    def dense(self) -> Tensor:
        return self.values

    def select(self, chosen: Tensor) -> Jacobian:
        return DenseJacobian(self.values[chosen])


@dataclass(frozen=True)
class LinearJacobian(Jacobian):
    """Jᵢ = I ⊗ aᵢ: every output of a linear map sees the same inputs."""

    inputs: Float[Tensor, "b i"]
    layout: LinearLayout

    def __len__(self) -> int:
        return len(self.inputs)

    def vjp(self, outputs: Tensor) -> Block:
        return FactoredBlock(self.inputs, outputs, self.layout)

    def jvp(self, rows: Tensor) -> Tensor:
        weights = self.layout.matrix(rows)  # (k, o, i)
        products = self.inputs.to(rows.dtype) @ weights.flatten(0, 1).T
        return products.view(len(self.inputs), len(rows), self.layout.outputs).transpose(1, 2)  # (b, o, k)

    def sandwich(self, operator: LinearOperator) -> Tensor:
        matrix = operator.dense()
        inputs, o = self.inputs.to(matrix.dtype), self.layout.outputs
        found = inputs.new_empty(len(inputs), o, o)
        for row in range(o):
            for column in range(row + 1 if operator.symmetric else o):
                block = self.layout.read(matrix, row, column)
                found[:, row, column] = torch.linalg.vecdot(inputs @ block, inputs)
                if operator.symmetric:
                    found[:, column, row] = found[:, row, column]
        return found

    def add_gram(self, curvature: Tensor, total: Tensor) -> None:
        inputs, o = self.inputs, self.layout.outputs
        curvature = curvature.to(inputs.dtype)
        for row in range(o):
            for column in range(row + 1):
                block = (inputs * curvature[:, row, column, None]).T @ inputs  # (i, i)
                self.layout.add(total, row, column, block)
                if column != row:
                    self.layout.add(total, column, row, block.T)

    def dense(self) -> Tensor:
        eye = torch.eye(self.layout.outputs, dtype=self.inputs.dtype, device=self.inputs.device)
        rows = (eye[None, :, :, None] * self.inputs[:, None, None, :]).flatten(0, 1)  # (b·o, o, i)
        return self.layout.rows(rows).view(len(self.inputs), self.layout.outputs, -1)

    def select(self, chosen: Tensor) -> Jacobian:
        return LinearJacobian(self.inputs[chosen], self.layout)


@dataclass(frozen=True)
class Rows:
    """An n × p matrix read as tiles: what a gradient pass yields, measurement and change alike."""

    count: int
    size: int
    tiles: Callable[[], Iterator[Block]]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, p)."""
        return self.count, self.size

    def dense(self) -> Float[Tensor, "n p"]:
        """The rows, written out."""
        return torch.cat([block.dense() for block in self.tiles()])

    def __matmul__(self, operator: LinearOperator) -> Float[Tensor, "n p"]:
        """``T @ A``."""
        return torch.cat([block.dense() @ operator for block in self.tiles()])

    @property
    def T(self) -> Columns:
        """The p × n transpose, for the right of a product."""
        return Columns(self)


@dataclass(frozen=True)
class Columns:
    """The transpose of Rows."""

    source: Rows

    def __rmatmul__(self, rows: Float[Tensor, "m p"]) -> Float[Tensor, "m n"]:
        """``V @ C.T``."""
        return torch.cat([block.against(rows) for block in self.source.tiles()]).T
