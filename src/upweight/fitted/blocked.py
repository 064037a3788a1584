"""Structured curvature, one block a layer, and its inverse."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from upweight.curvature import Relative, damped, ekfac, mean_eigenvalue
from upweight.curvature.ekfac import SquaredInputs
from upweight.curvature.fisher import read_fisher
from upweight.errors import BudgetError, ConfigError, listing
from upweight.fitted.settings import STRUCTURED, Settings
from upweight.gradients import Engine
from upweight.linop import BlockDiagonal, Diagonal, Identity, Kronecker, LinearOperator, Scaled
from upweight.planning.counts import Task, diagonal_factors, ekfac_factors, kfac_factors
from upweight.planning.shapes import shape_of
from upweight.router import Room
from upweight.solve import Filter, Inverted, filtered, inverse
from upweight.solve.inverse import eigen
from upweight.space import Layout

AUTO_DAMPING = Relative(0.1)
"""Damping of structured curvature in units of each block's mean eigenvalue, where nothing better is known."""

ITERATED_DAMPING = Relative(10.0)
"""λ of an exact curvature that is only multiplied, in EK-FAC's mean eigenvalue: it has far more flat directions than blocks
have, and ranked best at about this on every setting where it was held against retraining (docs/quality.md)."""

COUNTED = {"ekfac": ekfac_factors, "kfac": kfac_factors, "kfac_reduce": kfac_factors, "diagonal": diagonal_factors}
"""Whose bytes are counted before they are formed."""

FEW = 10**5
"""Parameters whose factors fit into any memory."""


@dataclass(frozen=True)
class Blocked:
    """The blocks of one structured curvature.

    Attributes:
        kind: its name; 'ekfac' stands in for an exact curvature where only its spectrum is wanted.
        known: the blocks, where they were formed before.
        squares: inputs in the eigenbasis of every batch, where forming EK-FAC had them in memory; else empty.
    """

    engine: Engine
    settings: Settings
    kind: str
    known: BlockDiagonal | None = field(default=None, repr=False)
    squares: SquaredInputs = field(default_factory=dict, repr=False)

    @cached_property
    def curvature(self) -> BlockDiagonal:
        """The blocks, without damping."""
        if self.known is not None:
            return self.known
        asked = self.settings
        self._require_room()
        if self.kind == "ekfac":
            return ekfac(self.engine, asked.fisher, asked.seed, asked.factor_share, self.squares)
        return STRUCTURED[self.kind](self.engine, asked.fisher, asked.seed, asked.factor_share)

    @property
    def by_rule(self) -> bool:
        """True where nobody gave a damping, so that it follows the rule."""
        return self.settings.damping == "auto"

    @property
    def chosen_damping(self) -> float | Relative | Filter:
        """λ as given; 'auto' is a tenth of every block's mean eigenvalue, and nothing on the identity."""
        rule = 0.0 if self.kind == "identity" else AUTO_DAMPING
        return rule if self.by_rule else self.settings.damping  # pyright: ignore

    @cached_property
    def damping(self) -> float:
        """One λ for all of θ, of a curvature that is only multiplied: as given, or in units of the blocks' mean eigenvalue."""
        chosen = ITERATED_DAMPING if self.by_rule else self.settings.damping
        if isinstance(chosen, Filter):
            raise ConfigError(
                f"damping={chosen!r} is a filter, and an iterated curvature is damped by one number. Expected a number or uw.Relative(share)."
            )
        return chosen.share * mean_eigenvalue(self.curvature) if isinstance(chosen, Relative) else float(chosen)  # pyright: ignore

    @cached_property
    def inverse(self) -> Inverted:
        """(F + λI)⁻¹, λ read for every block; or f(F) where a filter was chosen."""
        return self.inverse_at(self.chosen_damping)

    @property
    def operator(self) -> BlockDiagonal:
        """The inverse as blocks."""
        found = self.inverse.operator
        assert isinstance(found, BlockDiagonal)
        return found

    def inverse_at(self, chosen: float | Relative | Filter) -> Inverted:
        """The same with another damping; 0 on the blocks that are flat, which have nothing to measure λ in."""
        parts, flat = self.curvature.parts, self.flat
        bent = BlockDiagonal(self.curvature.width, tuple(part for part in self._decomposed if part[0] not in flat))
        found = filtered(bent, chosen) if isinstance(chosen, Filter) else inverse(damped(bent, chosen))
        assert isinstance(found, Inverted) and isinstance(found.operator, BlockDiagonal)
        answers = {at.places: block for at, block in found.operator.parts}
        whole = tuple((at, answers.get(at.places, Scaled(Identity(block.size), 0.0))) for at, block in parts)
        verdict = replace(found.verdict, method=self._words(), residual=None)
        return Inverted(BlockDiagonal(self.curvature.width, whole), verdict)

    @cached_property
    def _decomposed(self) -> tuple[tuple[Layout, LinearOperator], ...]:
        """The blocks, Kronecker products in their eigenbasis, which serves every damping."""
        parts = self.curvature.parts
        return tuple((at, eigen(block) if isinstance(block, Kronecker) else block) for at, block in parts)

    @cached_property
    def flat(self) -> tuple[Layout, ...]:
        """Blocks without curvature where λ is a share of it: no training point reaches them, so they take no part."""
        chosen = self.chosen_damping
        if not (isinstance(chosen, Relative) or (isinstance(chosen, Filter) and chosen.relative)):
            return ()
        return tuple(at for at, block in self.curvature.parts if mean_eigenvalue(block) == 0)

    @property
    def undone(self) -> LinearOperator:
        """F + λI, or 1/f(F) where a filter was chosen: what ``inverse`` is the inverse of."""
        chosen = self.chosen_damping
        if isinstance(chosen, Filter):
            found = inverse(self.inverse.operator)
            assert isinstance(found, Inverted)
            return found.operator
        return damped(self.curvature, chosen)

    def _require_room(self) -> None:
        """Refuse factors that do not fit, before they are formed.

        Raises:
            BudgetError: saying what they need.
        """
        if self.kind not in COUNTED or self.engine.objective.space.size < FEW:
            return
        shape, limit = shape_of(self.engine), Room(self.settings.budget).whole
        task = Task(1, 1, memory=limit, fisher=self.settings.fisher)
        needed = int(COUNTED[self.kind](shape, task).peak)
        if needed > limit:
            raise BudgetError(
                f"the factors of curvature={self.kind!r} need {needed:,} bytes for {shape.tracked:,} parameters. Expected at most the memory of {limit:,}; raise memory=, track fewer layers with parameters=, or take curvature='diagonal'."
            )

    def _words(self) -> str:
        fisher = read_fisher(self.settings.fisher, self.engine.objective.outputs)
        part = "" if self.settings.factor_share == 1 else f" from {self.settings.factor_share:.0%} of the training set"
        count = len(self.curvature.parts)
        said = [f"{self.kind} in {count} block{'s' * (count != 1)}"]
        said += [] if self.kind == "identity" else [f"{fisher} Fisher{part}"]
        bare = [block for _, block in self.curvature.parts if isinstance(block, Diagonal)]
        if self.kind in ("ekfac", "kfac", "kfac_reduce") and bare:
            size = sum(block.size for block in bare) / self.curvature.size
            said.append(f"{len(bare)} of them a plain diagonal, {size:.0%} of the parameters, for want of a layer rule")
        if self.flat:
            homes = self.engine.objective.space.homes()
            names = dict.fromkeys(homes[at.places[0][0]] for at in self.flat)
            said.append(f"{listing(tuple(names), 3)} left out, which no training point reaches")
        if self.settings.precision == "bfloat16":
            said.append("passes in bfloat16")
        if isinstance(self.chosen_damping, Filter):
            said.append(self.chosen_damping.name)
        words = ", ".join(said)
        return f"{words} {self.settings.chosen}" if self.settings.chosen else words
