"""Questions put to a model before it is believed: is an output the example's own, and always the same?"""

import torch

from upweight._typing import Tensor
from upweight.errors import NondeterministicModel, OrderError
from upweight.gradients.engine import Engine
from upweight.objective import Examples
from upweight.objective.data import Items, map_tensors
from upweight.objective.linear_map import LinearMap
from upweight.objective.predictors import Predictors

ROUNDING = 1e3
"""Units of rounding that two passes may differ by: other batch sizes take other product kernels."""

PROBED = 8
"""Examples the probe reads: enough to see batch statistics, few enough to cost nothing."""

CHANCE = (
    "the model gave two different outputs for the same examples in eval mode. Expected a deterministic model; "
    "remove the sampling from its forward, fix its noise as a buffer, or average it: forward=uw.Randomised(forward, draws=8)"
)
MIXING = (
    "the output for example {} depends on the rest of its batch even in eval mode. Expected each output to be its "
    "example's own; give batch-norm layers running statistics, or replace the layer that mixes examples"
)


CHANGING = (
    "the training set gave two different versions of example {}. Expected the same example every time it is read; turn random augmentation "
    "and sampling off in the dataset and its collate function (what a model was trained on at random is averaged by several fixed copies)."
)
REREAD = 64
"""Examples read twice, to see whether the data themselves are random: a fetch each, and no pass of the model."""


def probe(engine: Engine) -> None:
    """Read the first examples twice; compare outputs of some of them: twice, and one by one.

    Raises:
        OrderError: an example is not the same when it is read again.
        NondeterministicModel: an output depends on chance, or on the rest of its batch, in eval mode.
    """
    objective = engine.objective
    if isinstance(objective.model, LinearMap | Predictors):
        return  # Wx + b draws nothing and mixes nothing; huge coefficients only make its rounding look like it
    _require_steady(objective.examples)
    count = min(PROBED, objective.count)
    batch = objective.moved(objective.examples.read(slice(0, count)))
    together, _ = engine.outputs(batch, names=objective.examples.ids[:count])
    with torch.random.fork_rng():
        torch.rand(1)  # every pass restores the random state, so chance only shows from another one
        again, _ = engine.outputs(batch)
    _check_alike(together, again, CHANCE)
    for position, name in enumerate(objective.examples.ids[:count]):
        alone, _ = engine.outputs(objective.moved(objective.examples.read(slice(position, position + 1))))
        _check_alike(together[position : position + 1], alone, MIXING.format(name))


def _require_steady(examples: Examples) -> None:
    if not isinstance(examples, Items):
        return  # tensors held in memory
    for position in range(min(REREAD, len(examples))):
        where, found = slice(position, position + 1), [[], []]
        for tensors in found:
            map_tensors(examples.read(where), tensors.append)
        if not all(torch.equal(a, b) or bool(a.isnan().any()) for a, b in zip(*found, strict=True)):
            raise OrderError(CHANGING.format(examples.ids[position]))


def _check_alike(first: Tensor, second: Tensor, message: str) -> None:
    """Raise unless two passes over the same examples gave the same outputs up to rounding."""
    scale = float(first.abs().max().clamp_min(1e-30))
    tolerance = ROUNDING * torch.finfo(first.dtype).eps * max(1.0, scale)
    if not torch.allclose(first, second, rtol=0, atol=tolerance, equal_nan=True):
        raise NondeterministicModel(f"{message} (the largest difference is {float((first - second).abs().max()):.3g}).")
