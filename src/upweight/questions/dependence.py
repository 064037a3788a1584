"""Does a measurement depend on what is tracked at all? Zeros that mean 'you asked the wrong thing' are refused."""

from __future__ import annotations

import torch

from upweight._typing import Float, Tensor
from upweight.errors import InputError
from upweight.fitted import Fitted
from upweight.objective import Measure
from upweight.questions.measuring import Measurement

OTHERS = 8
"""Other outputs at which a measure that has no slope here is tried: one that is flat on a half-space has one at some."""


def require_dependence(fitted: Fitted, measured: Measurement, order: str) -> None:
    """Refuse queries whose outputs no tracked parameter moves, and callable measures that outputs do not move.

    A loss that is saturated, with slope zero at these outputs, is a true zero and passes.

    Raises:
        InputError: the Jacobian of every query is exactly zero, or a callable is constant in the outputs.
    """
    if not fitted.linear and not _moved(measured):
        names = ", ".join(fitted.objective.space.names[:5])
        raise InputError(
            f"the query does not depend on any tracked parameter: the outputs of all {len(measured.outputs)} queries have derivative zero in {names}. "
            "Expected parameters that these outputs pass through; correct parameters=, or forward=, if it leaves them out."
        )
    if isinstance(measured.measure, Measure) and measured.measure.free:
        _require_slope(measured, order)


def _moved(measured: Measurement) -> bool:
    """Whether any query's Jacobian has an entry: the first tile settles it nearly always."""
    start = 0
    for jacobian in measured.jacobians:
        where = slice(start, start + len(jacobian))
        slopes = _noise(measured.outputs[where])
        if bool(jacobian.vjp(slopes).sum(slopes[:, 0].contiguous()).ne(0).any()):
            return True
        start = where.stop
    return False


def _require_slope(measured: Measurement, order: str) -> None:
    """A callable without slope here and at other outputs: constant, or a step that first order cannot see."""
    measure, outputs, targets = measured.measure, measured.outputs, measured.targets
    assert isinstance(measure, Measure)
    others = [float(1 + outputs.abs().max()) * _noise(outputs, seed) for seed in range(OTHERS)]
    if any(bool(measure.gradient(at, targets).ne(0).any()) for at in (outputs, *others)):
        return
    values = measure.values(outputs, targets)
    constant = all(bool((values == measure.values(at, targets)).all()) for at in others)
    if constant or order == "first":
        how = "is the same at any outputs" if constant else "is made of steps, which have no slope"
        raise InputError(
            f"the query does not depend on any tracked parameter: measure={measure.name!r} {how}. "
            "Expected a differentiable function of the outputs; use them in it without detach() or rounding, or ask for measure='loss' or 'margin'."
        )


def _noise(like: Float[Tensor, "m o"], seed: int = 0) -> Float[Tensor, "m o"]:
    """Random numbers in the shape of the outputs, the same every time."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(like)
