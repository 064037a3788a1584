"""What a study was asked for: protocol, curvature, solver, damping and memory; read and checked, nothing computed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from upweight.curvature import Relative, block_diagonal, diagonal, ekfac, identity, kfac
from upweight.curvature.fisher import FISHERS
from upweight.errors import ConfigError, names_like
from upweight.fitted.solvers import ITERATIVE, Solver
from upweight.gradients import Engine
from upweight.linop import BlockDiagonal
from upweight.solve import Filter

PROTOCOLS = ("as_refit", "fixed_mean", "fixed_total")
EXACT = ("hessian", "ggn")
STRUCTURED: dict[str, Callable[[Engine, str, int, float], BlockDiagonal]] = {
    "ekfac": ekfac,
    "kfac": lambda engine, fisher, seed, share: kfac(engine, fisher, "expand", seed, share),
    "kfac_reduce": lambda engine, fisher, seed, share: kfac(engine, fisher, "reduce", seed, share),
    "diagonal": diagonal,
    "block_diagonal": block_diagonal,
    "identity": lambda engine, fisher, seed, share: identity(engine),
}
CURVATURES = ("auto", *EXACT, *STRUCTURED)
PRODUCTS = ("auto", "written", "separable", "low_rank", "ghost")


UNITS = {"": 0, "K": 3, "M": 6, "G": 9, "T": 12}
"""Zeros of a prefix; with an i, as in GiB, thirds of them are powers of 1,024."""


def read_bytes(memory: int | float | str | None) -> int | None:
    """A number of bytes, or a number with a unit: 4e9, '4GB', '512 MiB'.

    Raises:
        ConfigError: neither, or not above zero.
    """
    if memory is None:
        return None
    found = re.fullmatch(r"\s*(\d*\.?\d+(?:e\+?\d+)?)\s*([KMGT]?)(i?)B?\s*", str(memory), re.IGNORECASE)
    bytes_ = 0.0
    if found and not isinstance(memory, bool):
        zeros = UNITS[found[2].upper()]
        bytes_ = float(found[1]) * (1024 ** (zeros // 3) if found[3] else 10**zeros)
    if not 1 <= bytes_ < float("inf"):
        raise ConfigError(
            f"memory={memory!r}. Expected a number of bytes above zero, such as 4e9 or '4GB', or None for half of the machine's."
        )
    return int(bytes_)


@dataclass(frozen=True)
class Settings:
    """How curvature is formed and inverted, and what refitting means for the penalty.

    Attributes:
        chosen: how the Fisher and the damping were come by, for the verdict; empty where they were given.
    """

    protocol: str = "as_refit"
    curvature: str = "auto"
    solver: str | Solver = "auto"
    damping: float | str | Relative | Filter | None = "auto"
    memory: int | float | str | None = None
    fisher: str = "auto"
    seed: int = 0
    products: str = "auto"
    factor_share: float = 1.0
    strict: bool = False
    precision: str | None = None
    chosen: str = ""

    def __post_init__(self) -> None:
        allowed_names = (
            ("protocol", PROTOCOLS),
            ("curvature", CURVATURES),
            ("fisher", FISHERS),
            ("products", PRODUCTS),
        )
        for name, allowed in allowed_names:
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is unknown. Expected {names_like(getattr(self, name), allowed)}."
                )
        self.chosen_solver  # noqa: B018 - reads the name
        if self.damping is None:
            object.__setattr__(self, "damping", 0.0)  # none asked for is none added
        self._check_damping()
        object.__setattr__(self, "memory", read_bytes(self.memory))
        if (
            isinstance(self.seed, bool)
            or not isinstance(self.seed, int | np.integer)
            or not -(2**63) <= self.seed < 2**63
        ):
            raise ConfigError(f"seed={self.seed!r}. Expected a whole number of at most 63 bits.")
        number = isinstance(self.factor_share, int | float) and not isinstance(self.factor_share, bool)
        if not number or not 0 < self.factor_share <= 1:
            raise ConfigError(
                f"factor_share={self.factor_share!r}. Expected a number above 0 and at most 1, the share of the training set that factors are estimated from."
            )
        if self.precision == "bfloat16" and self.curvature not in STRUCTURED:
            raise ConfigError(
                f"precision='bfloat16' found curvature={self.curvature!r}. Expected a structured one, such as 'ekfac': exact curvature is not worth its digits otherwise; leave precision out."
            )
        if self.curvature in STRUCTURED and self.solver_name != "auto":
            raise ConfigError(
                f"solver={self.solver_name!r} found curvature={self.curvature!r}, which is inverted block by block. Expected solver='auto' with it, or curvature='ggn' or 'hessian' with this solver."
            )

    def _check_damping(self) -> None:
        number = isinstance(self.damping, int | float) and not isinstance(self.damping, bool)
        number = number and 0 <= self.damping < float("inf")  # pyright: ignore
        if not (isinstance(self.damping, Relative | Filter) or self.damping == "auto" or number):
            raise ConfigError(
                f"damping={self.damping!r}. Expected 'auto', a number of zero or more in the units of the curvature, uw.Relative(share), or a filter such as uw.Ridge(0.1)."
            )
        if isinstance(self.damping, Filter) and (self.curvature in EXACT or self.solver_name in ITERATIVE):
            raise ConfigError(
                f"damping={self.damping!r} is a filter, and curvature={self.curvature!r} with solver={self.solver_name!r} has no eigenbasis to filter in. Expected a number or uw.Relative(share) there, or curvature='ekfac'."
            )

    @property
    def chosen_solver(self) -> Solver:
        """The solver with its options."""
        return self.solver if isinstance(self.solver, Solver) else Solver(self.solver)

    @property
    def solver_name(self) -> str:
        """The solver's name."""
        return self.chosen_solver.name

    @property
    def budget(self) -> int:
        """Bytes the exact path may take: as given, else half of the machine's memory."""
        return (
            int(self.memory)
            if self.memory is not None
            else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        )
