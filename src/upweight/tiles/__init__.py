"""Matrices with one row, or one Jacobian, an example, read tile by tile and never held whole."""

from upweight.tiles.blocks import (
    Block,
    BlockSum,
    DenseBlock,
    FactoredBlock,
    IndexedBlock,
    PlacedBlock,
    SharedBlock,
)
from upweight.tiles.jacobian import Jacobian
from upweight.tiles.jacobians import DenseJacobian, LinearJacobian
from upweight.tiles.rows import Columns, Rows

__all__ = [
    "Block",
    "BlockSum",
    "Columns",
    "DenseBlock",
    "DenseJacobian",
    "FactoredBlock",
    "IndexedBlock",
    "Jacobian",
    "LinearJacobian",
    "PlacedBlock",
    "Rows",
    "SharedBlock",
]
