"""Jacobians of whole models: dense, or linear, where Jᵢ = I ⊗ aᵢ and nothing of size p is formed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from upweight._typing import Float, Tensor
from upweight.linop import LinearOperator
from upweight.space import CellLayout, FlatLayout, LinearLayout, MapLayout
from upweight.tiles.blocks import Block, DenseBlock, FactoredBlock
from upweight.tiles.jacobian import Jacobian, LayerJacobian, add_dense_gram, dense_sandwich
from upweight.tiles.layer_jacobians import FactoredJacobian, PlacedJacobian

FEW_OUTPUTS = 8
"""Up to this many outputs pairs are taken one by one, where symmetry saves half of them; then a row at a time."""


@dataclass(frozen=True)
class DenseJacobian(Jacobian):
    """Jacobians held as they are."""

    values: Float[Tensor, "b o p"]

    def __len__(self) -> int:
        return len(self.values)

    def vjp(self, outputs: Tensor) -> Block:
        return DenseBlock(torch.einsum("bo,bop->bp", outputs, self.values.to(outputs.dtype)))

    def pulled(self, slopes: list[Tensor]) -> tuple[LayerJacobian, ...]:
        whole = FlatLayout(self.values.shape[2], slice(0, self.values.shape[2]))
        return (PlacedJacobian(torch.stack(slopes, 1).to(self.values.dtype) @ self.values, whole),)

    def jvp(self, rows: Tensor) -> Tensor:
        return self.values.to(rows.dtype) @ rows.T  # (b, o, k)

    def sandwich(self, operator: LinearOperator) -> Tensor:
        return dense_sandwich(self.values, operator)

    def add_gram(self, curvature: Tensor, total: Tensor) -> None:
        add_dense_gram(self.values, curvature, total)

    def dense(self) -> Tensor:
        return self.values

    def select(self, chosen: Tensor) -> Jacobian:
        return DenseJacobian(self.values[chosen])


@dataclass(frozen=True)
class LinearJacobian(Jacobian):
    """Jᵢ = I ⊗ aᵢ, as it lies in θ: every output of a linear map is given the same inputs."""

    inputs: Float[Tensor, "b i"]
    layout: MapLayout

    def __len__(self) -> int:
        return len(self.inputs)

    def vjp(self, outputs: Tensor) -> Block:
        return FactoredBlock(self.inputs, outputs, self.layout)

    def pulled(self, slopes: list[Tensor]) -> tuple[LayerJacobian, ...]:
        assert isinstance(self.layout, LinearLayout)  # only structured curvature asks, which is for nn.Linear
        return (FactoredJacobian(self.inputs.unsqueeze(1), torch.stack(slopes, 1).unsqueeze(2), self.layout),)

    def jvp(self, rows: Tensor) -> Tensor:
        weights = self.layout.matrix(rows)  # (k, o, i)
        products = self.inputs.to(rows.dtype) @ weights.flatten(0, 1).T
        return products.view(len(self.inputs), len(rows), self.layout.outputs).transpose(1, 2)  # (b, o, k)

    def sandwich(self, operator: LinearOperator) -> Tensor:
        matrix = operator.dense()
        inputs, o = self.inputs.to(matrix.dtype), self.layout.outputs
        if isinstance(self.layout, CellLayout) and o > FEW_OUTPUTS:
            rows = [(inputs @ self.layout.read_row(matrix, row)).view(len(inputs), o, -1) for row in range(o)]
            return torch.stack([(row @ inputs.unsqueeze(2)).squeeze(2) for row in rows], 1)
        found = inputs.new_empty(len(inputs), o, o)
        for row in range(o):
            for column in range(row + 1 if operator.symmetric else o):
                block = self.layout.read(matrix, row, column)
                found[:, row, column] = torch.linalg.vecdot(inputs @ block, inputs)
                if operator.symmetric:
                    found[:, column, row] = found[:, row, column]
        return found

    def add_diagonal_gram(self, curves: Float[Tensor, "b o"], total: Float[Tensor, "p p"]) -> None:
        """The same for diagonal M, in place: o blocks instead of o(o + 1)/2."""
        for output, curve in enumerate(curves.to(self.inputs.dtype).unbind(1)):
            self.layout.add(total, output, output, (self.inputs * curve[:, None]).T @ self.inputs)

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
