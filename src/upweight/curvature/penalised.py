"""The penalty's curvature added to structured blocks, as exactly as their structure allows."""

from __future__ import annotations

import torch

from upweight._typing import Float, Tensor
from upweight.linop import BlockDiagonal, Dense, Diagonal, Kronecker, KroneckerEigen, LinearOperator
from upweight.objective import Objective
from upweight.solve.inverse import eigen


def with_penalty(operator: BlockDiagonal, objective: Objective) -> BlockDiagonal:
    """Every block plus ∇²r on its coordinates.

    A penalty that is the same all over a layer is added exactly; one that leaves the bias out is added as
    its diagonal in the block's eigenbasis.
    """
    if objective.penalty.empty:
        return operator
    diagonal = objective.penalty.diagonal.to(objective.theta.device).unsqueeze(0)
    parts = tuple((layout, _added(block, layout.gather(diagonal)[0])) for layout, block in operator.parts)
    return BlockDiagonal(operator.width, parts)


def _added(block: LinearOperator, penalty: Float[Tensor, "q"]) -> LinearOperator:
    if isinstance(block, Kronecker):
        block = eigen(block)
    if isinstance(block, KroneckerEigen):
        entries = penalty.view(block.values.shape).to(block.values)
        turned = block.left.square().T @ entries @ block.right.square()  # the diagonal of Qᵀ diag(d) Q
        return KroneckerEigen(block.left, block.right, block.values + turned)
    if isinstance(block, Diagonal):
        return Diagonal(block.entries + penalty.to(block.entries))
    return Dense(block.dense() + torch.diag(penalty.to(block.dense())), is_symmetric=True)
