"""Structured curvature, one block a layer, and its inverse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from upweight.curvature import Relative, damped, mean_eigenvalue
from upweight.curvature.fisher import read_fisher
from upweight.fitted.settings import STRUCTURED, Settings
from upweight.gradients import Engine
from upweight.linop import BlockDiagonal
from upweight.solve import Inverted, inverse

AUTO_DAMPING = Relative(0.1)
"""Damping of structured curvature in units of each block's mean eigenvalue, where nothing better is known."""


@dataclass(frozen=True)
class Blocked:
    """The blocks of one structured curvature.

    Attributes:
        kind: its name; 'ekfac' stands in for an exact curvature where only its spectrum is wanted.
    """

    engine: Engine
    settings: Settings
    kind: str

    @cached_property
    def curvature(self) -> BlockDiagonal:
        """The blocks, without damping."""
        asked = self.settings
        return STRUCTURED[self.kind](self.engine, asked.fisher, asked.seed, asked.factor_share)

    @property
    def chosen_damping(self) -> float | Relative:
        """λ as given; 'auto' is a tenth of every block's mean eigenvalue."""
        chosen = self.settings.damping
        return AUTO_DAMPING if chosen in ("auto", None) else chosen  # pyright: ignore

    @cached_property
    def damping(self) -> float:
        """One λ for all of θ: as given, or in units of the mean eigenvalue over all blocks."""
        chosen = self.chosen_damping
        return chosen.share * mean_eigenvalue(self.curvature) if isinstance(chosen, Relative) else float(chosen)

    @cached_property
    def inverse(self) -> Inverted:
        """(F + λI)⁻¹, λ read for every block."""
        found = inverse(damped(self.curvature, self.chosen_damping))
        assert isinstance(found, Inverted)
        fisher = read_fisher(self.settings.fisher, self.engine.objective.outputs)
        part = "" if self.settings.factor_share == 1 else f" from {self.settings.factor_share:.0%} of the training set"
        name = f"{self.kind} in {len(self.curvature.parts)} blocks, {fisher} Fisher{part}"
        name += f", passes in {self.settings.precision}" if self.settings.precision == "bfloat16" else ""
        return replace(found, verdict=replace(found.verdict, method=name, residual=None))
