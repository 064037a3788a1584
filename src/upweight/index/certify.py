"""Certain ends of a ranking: every score with a bound of its error, and conjugate gradients until the ends separate.

    |t_qᵀH⁻¹gᵢ − x̂_qᵀgᵢ| = |r_qᵀH⁻¹gᵢ| ≤ ‖r_q‖_{H⁻¹} ‖gᵢ‖_{H⁻¹},   r_q = t_q − Hx̂_q

Both factors are bounded from D ≼ H (``lower``). What the index leaves out of gᵢ is bounded in a metric of its own.
Rows whose bound keeps them from both ends are left aside for good; for the others the gradients are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from upweight._typing import Bool, Float, Int, Tensor
from upweight.errors import BudgetError, ConfigError, NotConverged
from upweight.fitted import Fitted
from upweight.index.basis import Basis
from upweight.index.held import Held, Sought
from upweight.index.lower import Lower, lower_bound
from upweight.index.queries import Solved, layouts_of, of_rows, solve
from upweight.index.scan import Ends
from upweight.questions.measuring import Measurement
from upweight.solve import BlockCG, Inverse

TOLERANCES = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
"""Relative residuals at which the solver stops to see whether the ends have separated."""

HELD_NUMBERS = 2**27
"""Scores of rows that might be at an end that are held together: a gigabyte."""

Recompute = Callable[[Int[Tensor, "c"], Solved, Lower | None], tuple[Float[Tensor, "m c"], Float[Tensor, "c"]]]
"""(rows, x) ↦ effects from gradients computed again, and bounds of wᵢ‖gᵢ‖ in H⁻¹."""


@dataclass(frozen=True)
class Certain:
    """Both ends of every query, and at which of them the k are certain.

    Attributes:
        looked_at: rows whose gradients were computed again.
        verdict: how x was come by, and how often the solver stopped.
    """

    ends: Ends
    certified: Bool[Tensor, "m 2"]
    looked_at: int
    verdict: str


def certify(fitted: Fitted, measured: Measurement, basis: Basis, held: Held, k: int, recompute: Recompute) -> Certain:
    """The k at both ends of every query, by the uncompressed method.

    While the solver is far from its answer, most rows may be at an end: it goes on until the index can leave no more of
    them aside, and only then are gradients computed again.

    Raises:
        ConfigError, IndefiniteCurvature: nothing is known to lie below the curvature.
        BudgetError: too many rows might be at an end.
    """
    lower = lower_bound(fitted)
    rows, found, last, stops = torch.arange(held.count)[~held.gone], None, None, 0
    screening = True
    for solved in _solutions(fitted, measured, lower):
        last, stops = solved, stops + 1
        error = _error(solved, lower)
        if screening:
            before, rows = len(rows), candidates(held, sought(basis, held, solved, error, lower), k)
            screening = len(rows) > FEW * k * len(error) and len(rows) < SHRUNK * before
        if not screening:
            found, rows = _settled(fitted, rows, solved, lower, k, recompute)
            if bool(found.certified.all()):
                break
    assert last is not None
    if found is None:
        found, _ = _settled(fitted, rows, last, lower, k, recompute)
    said = f"; stopped {stops} times" if stops > 1 else ""
    return replace(found, verdict=f"{last.verdict}{said}")


FEW = 4
"""Rows to be computed again, in units of what is asked for, that are not worth another solve to be spared."""

SHRUNK = 0.9
"""Share of the rows left aside so far that another solve must bring them down to, to be worth one more."""


def _settled(
    fitted: Fitted, rows: Int[Tensor, "c"], solved: Solved, lower: Lower | None, k: int, recompute: Recompute
) -> tuple[Certain, Int[Tensor, "x"]]:
    """The ends by gradients computed again, where they are certain, and the rows that may still be at one."""
    error = _error(solved, lower)
    _require_room(rows, len(error))
    effects, own = recompute(rows, solved, lower)
    rounding = ROUNDING * torch.finfo(fitted.objective.theta.dtype).eps
    radius = error[:, None] * own + rounding * effects.abs().amax(1, keepdim=True)
    ends = Ends.of(k)
    ends.add(effects, rows)
    certified = torch.stack([_apart(effects, radius, k), _apart(-effects, radius, k)], 1)
    return Certain(ends, certified, len(rows), ""), rows[_may_be_at_an_end(effects, radius, k)]


ROUNDING = 64.0
"""Units of rounding of the largest effect by which gradients that are computed again may differ from themselves."""


def _error(solved: Solved, lower: Lower | None) -> Float[Tensor, "m"]:
    """A bound of ‖r‖ in H⁻¹ for every query; zero where x is exact."""
    if lower is None or solved.residual is None:
        return torch.zeros(len(solved.constant), dtype=torch.float64)
    return lower.residual(solved.residual).cpu()


def sought(basis: Basis, held: Held, solved: Solved, error: Float[Tensor, "m"], lower: Lower | None) -> Sought:
    """The queries with what bounds need."""
    kept = solved.through(basis).double().cpu()
    folded = kept * held.rounding.typical.double()
    length = (kept.square() @ (1 / basis.lengths)).sqrt()
    tails, pull = solved.left_out(basis, kept), 0.0 if lower is None else lower.pull
    return Sought(folded, solved.constant.cpu(), tails.double().cpu(), length, error, pull)


def candidates(held: Held, queries: Sought, k: int) -> Int[Tensor, "c"]:
    """Rows that may be among the k at either end of any query: two passes over the index."""
    sure = Ends.of(k)
    for rows, scores, radius in held.scores(queries):
        sure.add(scores, rows, held.gone[rows], radius)
    found = []
    for rows, scores, radius in held.scores(queries):
        high = (scores + radius) >= sure.top.worst[:, None]
        low = (radius - scores) >= sure.bottom.worst[:, None]
        found.append(rows[((high | low).any(0)) & ~held.gone[rows]])
    return torch.cat(found)


def _solutions(fitted: Fitted, measured: Measurement, lower: Lower | None) -> Iterator[Solved]:
    """x of rising accuracy with its residual in float64, until the solver can do no better."""
    if lower is None:
        yield solve(fitted, measured)
        return
    wanted, layouts = measured.rows(), layouts_of(fitted)
    inverse = fitted.row_inverse(len(wanted))
    product = _product(fitted, inverse)
    answer = torch.zeros_like(wanted)
    left, scale = wanted, wanted.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    for tolerance in TOLERANCES:
        try:
            answer = answer + _solved(inverse, left, tolerance, scale)
        except NotConverged:
            if not bool(answer.any()):
                raise
            break
        before, left = left, wanted - product(answer)
        left = inverse.project(left)
        reached = float((left.norm(dim=1) / scale).max())
        verdict = replace(inverse.verdict, residual=reached)
        yield of_rows(fitted, answer, str(verdict), layouts, left)
        if float(left.norm()) > 0.5 * float(before.norm()):
            break


def _solved(inverse: Inverse, left: Tensor, tolerance: float, scale: Tensor) -> Tensor:
    """A correction that brings every residual to the tolerance, relative to its query."""
    if not isinstance(inverse, BlockCG):
        return inverse.solve(left).rows
    goal = tolerance * float((scale / left.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)).min())
    return replace(inverse, tolerance=min(goal, 0.5)).solve(left).rows


def _product(fitted: Fitted, inverse: Inverse) -> Callable[[Tensor], Tensor]:
    """V ↦ V(H + λI) in float64.

    Raises:
        ConfigError: a solver that is not exact in its limit.
    """
    if isinstance(inverse, BlockCG):
        return inverse.exact.after
    if fitted.iterates:
        raise ConfigError(
            f"certified answers found solver={fitted.settings.solver_name!r}, which stops short of the answer. Expected solver='block_cg', or a curvature that is written out."
        )
    return fitted.exact.curvature.damped(fitted.exact.damping).after


def _apart(effects: Float[Tensor, "m c"], radius: Float[Tensor, "m c"], k: int) -> Bool[Tensor, "m"]:
    """Whether the k largest are certain: the least any of them can be is more than the most any other can be."""
    if effects.shape[1] <= k:
        return torch.ones(len(effects), dtype=torch.bool)
    inside = torch.zeros_like(effects, dtype=torch.bool).scatter(1, effects.topk(k, 1).indices, True)
    least = (effects - radius).masked_fill(~inside, torch.inf).amin(1)
    most = (effects + radius).masked_fill(inside, -torch.inf).amax(1)
    return least > most


def _may_be_at_an_end(effects: Float[Tensor, "m c"], radius: Float[Tensor, "m c"], k: int) -> Bool[Tensor, "c"]:
    found = torch.zeros(effects.shape[1], dtype=torch.bool)
    for signed in (effects, -effects):
        sure = (signed - radius).topk(min(k, signed.shape[1]), 1).values[:, -1:]
        found |= ((signed + radius) >= sure).any(0)
    return found


def _require_room(rows: Int[Tensor, "c"], queries: int) -> None:
    if len(rows) * queries > HELD_NUMBERS:
        raise BudgetError(
            f"certified answers found {len(rows):,} rows that may be at an end of {queries} queries. Expected at most {HELD_NUMBERS:,} scores held together; ask fewer queries at a time, or build the index with bounds=True and more numbers an example."
        )
