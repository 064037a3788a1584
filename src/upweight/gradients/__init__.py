"""Per-example derivatives of a model: the only rooms that call it."""

from typing import Any

from upweight.gradients.engine import Engine
from upweight.gradients.linear import LinearEngine, linear_engine
from upweight.gradients.network import NetworkEngine, network_engine
from upweight.gradients.stationarity import Stationarity, estimate_stationarity, measure_stationarity
from upweight.gradients.vmap import VmapEngine
from upweight.objective import Objective, read_examples
from upweight.objective.randomised import Randomised
from upweight.tiles import Rows


def engine_for(objective: Objective) -> Engine:
    """Closed forms where the model is linear in its tracked parameters, layerwise factors for networks, else vmap."""
    general = VmapEngine(objective)
    if isinstance(objective.forward, Randomised):
        return general  # examples are run one by one, each under its own seeds
    return linear_engine(general) or network_engine(general) or general


def rows(objective: Objective, data: Any = None) -> Rows:
    """The rows ∇ℓᵢ(θ̂) of the training set, or of other data in the same form, read tile by tile.

    Returns:
        Rows of shape (n, p), without weights or penalty; positive means that the coordinate's growth raises
        the example's loss. ``rows(objective).dense()`` writes them out.

    Raises:
        InputError: data that cannot be scored.

    Error and cost:
        Exact. One backward pass an example, or none where the model is linear in its parameters; a tile at a
        time, so memory does not grow with n.
    """
    engine = engine_for(objective)
    examples = objective.examples if data is None else read_examples(data, objective.theta.dtype)
    return Rows(
        len(examples), objective.space.size, lambda: (engine.gradients(batch) for _, batch in engine.batches(examples))
    )


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
