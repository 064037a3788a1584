"""How an index keeps gradients: which numbers, how many, in which type; read and checked, nothing computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from upweight.errors import ConfigError

KINDS = ("auto", "eigenbasis", "logra", "none")
DTYPES = {"float64": 8, "float32": 4, "float16": 2, "int8": 1}

WHOLE = 1024
"""Parameters up to which 'auto' keeps every one: two kilobytes an example."""

MASS, MOST = 0.99, 16384
"""What 'auto' keeps in an eigenbasis: this share of the curvature that damping leaves, in at most so many numbers."""

SIDE = 64
"""LoGra's numbers on each side of a layer."""


@dataclass(frozen=True)
class Compression:
    """What an index keeps of a gradient.

    Args:
        kind: 'eigenbasis' (coordinates of K-FAC's eigenbasis with the most curvature), 'logra' (random projection on
            both sides of every layer), 'none', or 'auto': all of up to 1,024 parameters, else the eigenbasis.
        size: numbers an example; in an eigenbasis also a share of the curvature, in (0, 1); for 'logra' the two sides.
        dtype: 'float64', 'float32', 'float16' or 'int8'.
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
            return self.kind != "none" and 0 < self.size < 1
        return self.kind != "none" and isinstance(self.size, int) and self.size > 0

    @property
    def sides(self) -> tuple[int, int]:
        """LoGra's numbers on the output and the input side."""
        if self.size is None:
            return SIDE, SIDE
        return tuple(self.size) if isinstance(self.size, tuple | list) else (self.size, self.size)  # pyright: ignore

    @property
    def item(self) -> int:
        """Bytes a number."""
        return DTYPES[self.dtype]

    def as_written(self) -> dict[str, Any]:
        """As a manifest has it."""
        said = asdict(self)
        return said | {"size": list(self.size) if isinstance(self.size, tuple) else self.size}


WANTED = {
    "auto": "a whole number of numbers an example, or a share in (0, 1)",
    "eigenbasis": "a whole number of numbers an example, or a share in (0, 1)",
    "logra": "a whole number, or (outputs, inputs)",
    "none": "no size",
}
