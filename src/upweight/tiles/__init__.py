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
from upweight.tiles.jacobians import DenseJacobian, Jacobian, LinearJacobian
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
