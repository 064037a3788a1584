"""What a study was asked for: protocol, curvature, solver, damping and memory; read and checked, nothing computed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from upweight.curvature import Relative, block_diagonal, diagonal, ekfac, identity, kfac
from upweight.curvature.fisher import FISHERS
from upweight.errors import ConfigError
from upweight.gradients import Engine
from upweight.linop import BlockDiagonal

PROTOCOLS = ("as_refit", "fixed_mean", "fixed_total")
EXACT = ("hessian", "ggn")
STRUCTURED: dict[str, Callable[[Engine, str, int], BlockDiagonal]] = {
    "ekfac": ekfac,
    "kfac": lambda engine, fisher, seed: kfac(engine, fisher, seed=seed),
    "diagonal": diagonal,
    "block_diagonal": block_diagonal,
    "identity": lambda engine, fisher, seed: identity(engine),
}
CURVATURES = ("auto", *EXACT, *STRUCTURED)
ITERATIVE = ("block_cg", "lissa", "astra", "lanczos", "nystrom", "woodbury")
SOLVERS = ("auto", "cholesky", *ITERATIVE)
PRODUCTS = ("auto", "written", "separable")


@dataclass(frozen=True)
class Settings:
    """How curvature is formed and inverted, and what refitting means for the penalty."""

    protocol: str = "as_refit"
    curvature: str = "auto"
    solver: str = "auto"
    damping: float | str | Relative | None = "auto"
    memory: int | None = None
    fisher: str = "auto"
    seed: int = 0
    products: str = "auto"

    def __post_init__(self) -> None:
        allowed_names = (
            ("protocol", PROTOCOLS),
            ("curvature", CURVATURES),
            ("solver", SOLVERS),
            ("fisher", FISHERS),
            ("products", PRODUCTS),
        )
        for name, allowed in allowed_names:
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown. Expected one of {', '.join(allowed)}.")
        given = isinstance(self.damping, Relative) or (isinstance(self.damping, int | float) and self.damping >= 0)
        if not (self.damping in ("auto", None) or given):
            raise ConfigError(
                f"damping={self.damping!r}. Expected 'auto', a number of zero or more in the units of the curvature, or uw.Relative(share)."
            )
        if self.curvature in STRUCTURED and self.solver in ITERATIVE:
            raise ConfigError(
                f"solver={self.solver!r} found curvature={self.curvature!r}, which is inverted block by block. Expected solver='auto' with it, or curvature='ggn' or 'hessian' with this solver."
            )

    @property
    def budget(self) -> int:
        """Bytes the exact path may take: as given, else half of the machine's memory."""
        return self.memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
