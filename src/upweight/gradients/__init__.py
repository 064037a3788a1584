"""Per-example derivatives of a model: the only rooms that call it."""

from upweight.gradients.engine import Engine
from upweight.gradients.linear import LinearEngine, linear_engine
from upweight.gradients.stationarity import Stationarity, measure_stationarity
from upweight.gradients.vmap import VmapEngine
from upweight.objective import Examples, Objective
from upweight.tiles import Rows


def engine_for(objective: Objective) -> Engine:
    """The closed-form engine where the model is linear in its tracked parameters, else the general one."""
    general = VmapEngine(objective)
    return linear_engine(general) or general


def rows(objective: Objective, data: Examples | None = None) -> Rows:
    """The rows ∇ℓᵢ(θ̂) of the training set, or of other examples, read tile by tile.

    Returns:
        Rows of shape (n, p); ``rows(objective).dense()`` writes them out.
    """
    engine = engine_for(objective)
    examples = data or objective.examples
    return Rows(
        len(examples), objective.space.size, lambda: (engine.gradients(batch) for _, batch in engine.batches(examples))
    )


__all__ = ["Engine", "LinearEngine", "Stationarity", "VmapEngine", "engine_for", "measure_stationarity", "rows"]
