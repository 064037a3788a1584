"""Small matrices and operators of every kind, with known spectra, for the laws of solvers."""

import torch

from upweight.linop import BlockDiagonal, Dense, Diagonal, Identity, Kronecker, LinearOperator
from upweight.solve.inverse import eigen
from upweight.space import FlatLayout, LinearLayout

SEEDS = [0, 1, 2]


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=chance(seed), dtype=torch.float64)


def spd(p: int, seed: int = 0, least: float = 0.3) -> torch.Tensor:
    root = normal(p, p, seed=seed)
    matrix = root @ root.T / p + least * torch.eye(p, dtype=torch.float64)
    return (matrix + matrix.T) / 2


def with_spectrum(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    basis = torch.linalg.qr(normal(len(values), len(values), seed=seed)).Q
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


def symmetric(matrix: torch.Tensor) -> Dense:
    return Dense(matrix, is_symmetric=True)


def eye(p: int) -> torch.Tensor:
    return torch.eye(p, dtype=torch.float64)


def blocks(seed: int) -> BlockDiagonal:
    """A weight and its bias in a Kronecker eigenbasis, a Kronecker product, a diagonal and a dense block."""
    size = 34
    layer = LinearLayout(3, size, slice(4, 16), slice(21, 24))
    parts = (
        (layer, eigen(Kronecker(spd(3, seed), spd(5, seed + 10)))),
        (FlatLayout(size, slice(0, 4)), Diagonal(torch.rand(4, generator=chance(seed), dtype=torch.float64) + 0.2)),
        (FlatLayout(size, slice(16, 21)), symmetric(spd(5, seed + 20))),
        (FlatLayout(size, slice(24, 34)), Kronecker(spd(2, seed + 30), spd(5, seed + 40))),
    )
    return BlockDiagonal(size, parts)


def operator_of(kind: str, seed: int) -> LinearOperator:
    return {
        "dense": lambda: symmetric(spd(9, seed)),
        "damped": lambda: symmetric(spd(9, seed)).damped(0.4),
        "kronecker": lambda: Kronecker(spd(3, seed), spd(4, seed + 1)),
        "eigen": lambda: eigen(Kronecker(spd(3, seed), spd(4, seed + 1))),
        "diagonal": lambda: Diagonal(spd(7, seed).diagonal()),
        "identity": lambda: Identity(6),
        "blocks": lambda: blocks(seed),
    }[kind]()


KINDS = ["dense", "damped", "kronecker", "eigen", "diagonal", "identity", "blocks"]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


class Counted(LinearOperator):
    """An operator that counts its products, and the rows in them."""

    def __init__(self, base: LinearOperator) -> None:
        self.base, self.products, self.rows = base, 0, 0

    @property
    def size(self) -> int:
        return self.base.size

    @property
    def symmetric(self) -> bool:
        return self.base.symmetric

    def after(self, rows: torch.Tensor) -> torch.Tensor:
        self.products, self.rows = self.products + 1, self.rows + len(rows)
        return self.base.after(rows)

    def transpose(self) -> LinearOperator:
        return Counted(self.base.T)

    def dense(self) -> torch.Tensor:
        return self.base.dense()
