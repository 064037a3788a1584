"""How an index keeps gradients: which numbers, how many, in which type; read and checked, nothing computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from upweight.errors import ConfigError

KINDS = ("auto", "eigenbasis", "sketch", "logra", "none")
DTYPES = {"float64": 64, "float32": 32, "float16": 16, "int8": 8, "bit": 1}
"""Bits a number."""

WHOLE = 1024
"""Parameters up to which 'auto' keeps every one: two kilobytes an example."""

MASS, MOST = 0.99, 16384
"""What 'auto' keeps in an eigenbasis: this share of the scores' variance, Σ (f(Λ)E[g²])², in at most so many numbers."""

SKETCH = 131072
"""Numbers a sketch adds a gradient up in: sixteen kilobytes in bits."""

SIDE = 64
"""LoGra's numbers on each side of a layer."""


@dataclass(frozen=True)
class Compression:
    """What an index keeps of a gradient.

    Args:
        kind: 'eigenbasis' (coordinates of K-FAC's eigenbasis in which most of the scores lies), 'sketch' (all of them, whitened and
            added up with random signs), 'logra' (random projection on both sides of every layer), 'none', or 'auto': all of up to 1,024 parameters, else the eigenbasis.
        size: numbers an example; in an eigenbasis also a share of the scores' variance, in (0, 1); for 'logra' the two sides.
        dtype: 'float64', 'float32', 'float16', 'int8', or of a sketch 'bit'.
        bounds: keep how much was left out of each gradient, so that ``certified=True`` seldom computes one again;
            None keeps it where the study's curvature is exact.
        seed: of a random projection.

    Raises:
        ConfigError: a combination that cannot mean anything.
    """

    kind: str = "auto"
    size: Any = None
    dtype: str = "float16"
    bounds: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("compression", KINDS), ("dtype", tuple(DTYPES))):
            value = self.kind if name == "compression" else self.dtype
            if value not in allowed:
                raise ConfigError(f"{name}={value!r} is unknown. Expected one of {', '.join(allowed)}.")
        if self.dtype == "bit" and self.kind != "sketch":
            raise ConfigError(
                f"dtype='bit' found compression={self.kind!r}. Expected compression='sketch', whose numbers are alike enough for their signs to do; or another dtype."
            )
        if self.bounds and self.kind == "sketch":
            raise ConfigError(
                "bounds=True found compression='sketch', which leaves nothing out and is wrong by chance. Expected compression='eigenbasis' for certified answers."
            )
        if self.size is not None and not self._meaningful():
            raise ConfigError(
                f"size={self.size!r} found compression={self.kind!r}. Expected {WANTED[self.kind]}; leave it out for the usual."
            )

    def _meaningful(self) -> bool:
        if isinstance(self.size, bool):
            return False
        if self.kind == "logra":
            sides = self.size if isinstance(self.size, tuple | list) else (self.size, self.size)
            return len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)
        if isinstance(self.size, float):
            return self.kind not in ("none", "sketch") and 0 < self.size < 1
        return self.kind != "none" and isinstance(self.size, int) and self.size > 0

    @property
    def sides(self) -> tuple[int, int]:
        """LoGra's numbers on the output and the input side."""
        if self.size is None:
            return SIDE, SIDE
        return tuple(self.size) if isinstance(self.size, tuple | list) else (self.size, self.size)  # pyright: ignore

    def row_bytes(self, numbers: int) -> int:
        """Of an example."""
        return -(-numbers * DTYPES[self.dtype] // 8)

    def as_written(self) -> dict[str, Any]:
        """As a manifest has it."""
        said = asdict(self)
        return said | {"size": list(self.size) if isinstance(self.size, tuple) else self.size}


WANTED = {
    "auto": "a whole number of numbers an example, or a share in (0, 1)",
    "eigenbasis": "a whole number of numbers an example, or a share in (0, 1)",
    "sketch": "a whole number of numbers an example",
    "logra": "a whole number, or (outputs, inputs)",
    "none": "no size",
}
