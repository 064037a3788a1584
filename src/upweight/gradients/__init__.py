"""Per-example derivatives of a model."""

from collections.abc import Callable
from functools import partial
from typing import Any

from upweight._typing import Batch, Tensor
from upweight.errors import ConfigError
from upweight.gradients.confirmation import network_engine
from upweight.gradients.engine import Engine
from upweight.gradients.linear import LinearEngine, linear_engine
from upweight.gradients.network import NetworkEngine
from upweight.gradients.stationarity import Stationarity, estimate_stationarity, measure_stationarity
from upweight.gradients.vmap import VmapEngine
from upweight.objective import Measure, Objective, read_examples, read_measure
from upweight.objective.randomised import Randomised
from upweight.tiles import Block, Rows


def engine_for(objective: Objective) -> Engine:
    """Closed forms where the model is linear in its tracked parameters, layerwise factors for networks, else vmap."""
    general = VmapEngine(objective)
    if isinstance(objective.forward, Randomised):
        return general  # examples are run one by one, each under its own seeds
    return linear_engine(general) or network_engine(general) or general


def rows(objective: Objective, data: Any = None, measure: str | Callable[[Tensor, Tensor], Tensor] = "loss") -> Rows:
    """The rows ∇ℓᵢ(θ̂) of the training set, or of other data in the same form, read tile by tile.

    Args:
        measure: another measurement φ than the loss: 'margin', 'logit', 'probability', or a callable
            (outputs, targets) → (b,); the rows are then ∇φᵢ(θ̂).

    Returns:
        Rows of shape (n, p), without weights or penalty; positive means that the coordinate's growth raises
        the example's loss, or measure. ``rows(objective).dense()`` writes them out.

    Raises:
        InputError: data that cannot be scored.
        ConfigError: a measure of several numbers an example.

    Error and cost:
        Exact. One backward pass an example, or none where the model is linear in its parameters; a tile at a
        time, so memory does not grow with n.
    """
    engine = engine_for(objective)
    examples = objective.examples if data is None else read_examples(data, objective.theta.dtype)
    gradients = engine.gradients if measure == "loss" else partial(_measured, engine, measure)
    return Rows(
        len(examples), objective.space.size, lambda: (gradients(batch) for _, batch in engine.batches(examples))
    )


def _measured(engine: Engine, measure: str | Callable[[Tensor, Tensor], Tensor], batch: Batch) -> Block:
    """The rows ∇φᵢ of a batch."""
    objective = engine.objective
    read = read_measure(measure, objective.loss, objective.trailing)
    outputs, targets, jacobian = engine.linearised(batch)
    slopes = read.gradient(outputs, targets) if isinstance(read, Measure) else outputs.unsqueeze(1)[:, :0]
    if slopes.shape[1] != 1:
        raise ConfigError(
            f"rows found measure={measure!r}, which gives {slopes.shape[1] or 'no'} numbers an example that depend on it alone. Expected one; ask for 'loss', 'margin' or a callable (outputs, targets) -> (b,)."
        )
    return jacobian.vjp(slopes[:, 0])


__all__ = [
    "Engine",
    "LinearEngine",
    "NetworkEngine",
    "Stationarity",
    "VmapEngine",
    "engine_for",
    "estimate_stationarity",
    "measure_stationarity",
    "rows",
]
