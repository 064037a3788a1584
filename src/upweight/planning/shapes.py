"""What counting needs to know of a model: its tracked linear maps, and what a pass takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from upweight.gradients import Engine, LinearEngine, NetworkEngine
from upweight.gradients.guard import as_found
from upweight.tiles.layer_jacobians import FactoredJacobian, LayerJacobian

SAMPLED = 2
"""Examples that a pass is counted on."""


@dataclass(frozen=True)
class LayerShape:
    """A tracked linear map, or a parameter without factors.

    Attributes:
        positions: s, how often an example uses it.
        inputs, outputs: i with the constant of a bias, and o; a parameter without factors has i = 1 and o of its numbers.
        factored: it is a linear map.
        count: how many such there are.
    """

    positions: int
    inputs: int
    outputs: int
    factored: bool = True
    count: int = 1

    @property
    def width(self) -> int:
        """Numbers of one of them."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class ModelShape:
    """A model as counting sees it.

    Attributes:
        layers: its tracked layers.
        forward: FLOPs of the forward pass of one example, two a multiplication; NaN where they were not counted.
        outputs: of one example.
        parameters: of the whole model, tracked or not.
        item: bytes a number.
        held: numbers an example holds while its layers are captured.
        edges: numbers of an example at the outputs of all watched layers: what is pulled back for a label.
        linear: linear in its parameters, so that curvature has closed forms.
    """

    layers: tuple[LayerShape, ...]
    forward: float
    outputs: int
    parameters: int
    item: int = 4
    held: int = 0
    edges: int = 0
    linear: bool = False

    @property
    def tracked(self) -> int:
        """p."""
        return sum(layer.count * layer.width for layer in self.layers)

    @property
    def largest(self) -> int:
        """Numbers of an example in the inputs or the outputs of one linear map."""
        return max((s * max(i, o) for _, s, i, o in self.each()), default=0)

    def each(self) -> Iterable[tuple[int, int, int, int]]:
        """(count, s, i, o) of the linear maps."""
        return [(one.count, one.positions, one.inputs, one.outputs) for one in self.layers if one.factored]


def shape_of(engine: Engine, passes: bool = False) -> ModelShape:
    """The shapes of a fitted model, from a pass over two of its examples.

    Args:
        passes: count the FLOPs of a pass as well, which bytes do not need and which takes torch a second to get ready for.
    """
    objective = engine.objective
    batch = objective.moved(objective.examples.read(slice(0, min(SAMPLED, objective.count))))
    outputs, targets, jacobian = engine.linearised(batch)
    layers = tuple(_layer(one) for one in jacobian.pulled([objective.loss.gradient(outputs, targets)]))
    held = engine.held if isinstance(engine, NetworkEngine) else sum(one.inputs + one.outputs for one in layers)
    return ModelShape(
        layers,
        _forward(engine, batch) / len(outputs) if passes else float("nan"),
        objective.outputs,
        sum(value.numel() for value in objective.model.parameters()),
        objective.theta.element_size(),
        held,
        _edges(engine, batch, layers),
        isinstance(engine, LinearEngine),
    )


def _edges(engine: Engine, batch: object, layers: tuple[LayerShape, ...]) -> int:
    if not isinstance(engine, NetworkEngine):
        return sum(one.positions * one.outputs for one in layers)
    captured = engine.captured(batch)
    return sum(call.shape.numel() for _, calls in captured.calls for call in calls) // captured.count


def _layer(layer: LayerJacobian) -> LayerShape:
    if isinstance(layer, FactoredJacobian):
        return LayerShape(layer.inputs.shape[1], layer.inputs.shape[2], layer.slopes.shape[3])
    return LayerShape(1, 1, layer.layout.width, factored=False)


def _forward(engine: Engine, batch: object) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with as_found(engine.objective.model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        engine.objective.forward(engine.objective.model, batch)
    return float(counter.get_total_flops())
