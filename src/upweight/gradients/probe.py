"""Questions put to a model before it is believed: is an output the example's own, and always the same?"""

import torch

from upweight.errors import NondeterministicModel
from upweight.gradients.engine import Engine
from upweight.gradients.stationarity import check_alike

PROBED = 8
"""Examples the probe reads: enough to see batch statistics, few enough to cost nothing."""


def probe(engine: Engine) -> None:
    """Compare outputs of the first examples: twice, and one by one.

    Raises:
        NondeterministicModel: an output depends on chance, or on the rest of its batch, in eval mode.
    """
    objective = engine.objective
    count = min(PROBED, objective.count)
    batch = objective.moved(objective.examples.read(slice(0, count)))
    together, _ = engine.outputs(batch, names=objective.examples.ids[:count])
    with torch.random.fork_rng():
        torch.rand(1)  # every pass restores the random state, so chance only shows from another one
        again, _ = engine.outputs(batch)
    check_alike(
        together,
        again,
        "the model gave two different outputs for the same examples in eval mode. Expected a deterministic model; "
        "remove the sampling from its forward, or fix its noise as a buffer",
        NondeterministicModel,
    )
    for position in range(count):
        alone, _ = engine.outputs(objective.moved(objective.examples.read(slice(position, position + 1))))
        check_alike(
            together[position : position + 1],
            alone,
            f"the output for example {objective.examples.ids[position]} depends on the rest of its batch even in eval mode. "
            "Expected each output to be its example's own; give batch-norm layers running statistics, or replace the layer that mixes examples",
            NondeterministicModel,
        )
