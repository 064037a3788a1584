"""Walks over the training set that collect what structured curvature is made of, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from upweight._typing import Float, Tensor
from upweight.curvature.fisher import label_slopes, read_fisher
from upweight.errors import NonFiniteGradient
from upweight.gradients import Engine, engine_for
from upweight.objective import Objective
from upweight.router import KEPT_BYTES
from upweight.tiles.layer_jacobians import FactoredJacobian, LayerJacobian, written_rows

Key = tuple[tuple[int, int], ...]
"""Where a part's weight and bias begin and end in θ: what tells parts apart."""


@dataclass(frozen=True)
class LabelRows:
    """One batch: its weights, and for every layer the gradient rows of each label that stands for the example."""

    weights: Float[Tensor, "b"]
    layers: tuple[LayerJacobian, ...]


@dataclass(frozen=True)
class Walk:
    """How the training set is walked: which engine, which Fisher, which draws."""

    engine: Engine
    fisher: str
    generator: torch.Generator

    @classmethod
    def of(cls, source: Objective | Engine, fisher: str, seed: int) -> Walk:
        """A walk of an objective, or of an engine already made; draws never touch the global seed."""
        engine = engine_for(source) if isinstance(source, Objective) else source
        return cls(engine, read_fisher(fisher, engine.objective.outputs), torch.Generator().manual_seed(seed))

    @property
    def objective(self) -> Objective:
        """What is walked over."""
        return self.engine.objective

    def batches(self, draws: int = 1) -> Iterator[list[LabelRows]]:
        """Every batch, with as many independent draws of its labels from one forward pass."""
        for where, batch in self.engine.batches():
            outputs, targets, jacobian = self.engine.linearised(batch)
            weights = self.objective.weights[where].to(outputs.dtype)
            found = []
            for _ in range(draws):
                slopes = label_slopes(self.objective.loss, outputs, targets, self.fisher, self.generator)
                found.append(LabelRows(weights, jacobian.pulled(slopes)))
            yield found


@dataclass
class LayerSums:
    """Second moments of one linear map: Σ w·aaᵀ over examples and the positions reached, Σ w·ggᵀ over labels as well."""

    layer: FactoredJacobian
    inputs: Float[Tensor, "i i"] = field(init=False)
    slopes: Float[Tensor, "o o"] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        like = self.layer.inputs
        self.inputs = like.new_zeros(like.shape[2], like.shape[2])
        self.slopes = like.new_zeros(self.layer.slopes.shape[3], self.layer.slopes.shape[3])

    def add(self, a: Float[Tensor, "b s i"], g: Float[Tensor, "b k s o"], weights: Float[Tensor, "b"]) -> None:
        """Add a batch."""
        spread, within = weights.sqrt(), reached(g)
        flat = (a * (spread[:, None] * within).unsqueeze(2)).flatten(0, 1)
        self.inputs.addmm_(flat.T, flat)
        flat = (g * spread[:, None, None, None]).flatten(0, 2)
        self.slopes.addmm_(flat.T, flat)
        self.total += float(weights @ within.sum(1))

    @property
    def means(self) -> tuple[Float[Tensor, "o o"], Float[Tensor, "i i"]]:
        """E Σ_s ggᵀ and the mean of aaᵀ over positions reached: their Kronecker product is K-FAC's block."""
        return self.slopes, self.inputs / max(self.total, torch.finfo(self.inputs.dtype).tiny)


@dataclass
class FlatSums:
    """The Fisher block of a parameter without factors: whole where it is small, its diagonal where it is not."""

    layer: LayerJacobian
    whole: bool
    values: Tensor = field(init=False)

    def __post_init__(self) -> None:
        q = self.layer.layout.width  # pyright: ignore
        theta = self.layer.slopes
        self.values = theta.new_zeros(q, q) if self.whole else theta.new_zeros(q)

    def add(self, rows: Float[Tensor, "b k q"], weights: Float[Tensor, "b"]) -> None:
        """Add a batch."""
        spread = (rows * weights.sqrt()[:, None, None]).flatten(0, 1)
        if self.whole:
            self.values.addmm_(spread.T, spread)
        else:
            self.values += spread.square().sum(0)


Sums = dict[Key, LayerSums | FlatSums]

WHOLE_BLOCK = 1024
"""Coordinates up to which a parameter without factors keeps its whole block: norms, and biases of their own."""


def collect(batches: Iterable[LabelRows], reduce: bool = False) -> Sums:
    """Second moments of every layer over the training set; reduced, with positions averaged before they are squared."""
    found: Sums = {}
    for rows in batches:
        for layer in rows.layers:
            key = layer.layout.places
            if isinstance(layer, FactoredJacobian):
                sums = found.setdefault(key, LayerSums(layer))
                assert isinstance(sums, LayerSums)
                sums.add(*positions(layer, reduce), rows.weights)
            else:
                sums = found.setdefault(key, FlatSums(layer, layer.layout.width <= WHOLE_BLOCK))
                assert isinstance(sums, FlatSums)
                sums.add(written_rows(layer), rows.weights)
    for sums in found.values():
        _require_finite(sums)
    return found


def positions(layer: FactoredJacobian, reduce: bool) -> tuple[Float[Tensor, "b s i"], Float[Tensor, "b k s o"]]:
    """a and g of a layer; reduced, the mean input and the summed gradient of every example."""
    if not reduce or layer.inputs.shape[1] == 1:
        return layer.inputs, layer.slopes
    within = reached(layer.slopes).unsqueeze(2)
    mean = (layer.inputs * within).sum(1, keepdim=True) / within.sum(1, keepdim=True).clamp_min(1)
    return mean, layer.slopes.sum(2, keepdim=True)


def reached(slopes: Float[Tensor, "b k s o"]) -> Float[Tensor, "b s"]:
    """1 where the gradient of some label arrives, else 0: padding takes no part, however long. Lone positions all do."""
    if slopes.shape[2] == 1:
        return slopes.new_ones(len(slopes), 1)
    return slopes.ne(0).any(3).any(1).to(slopes.dtype)


def kept_bytes(walk: Walk, first: LabelRows) -> int:
    """What it takes to keep the layers of the whole training set from one walk."""
    numbers = sum(
        layer.slopes[0].numel() + (layer.inputs[0].numel() if isinstance(layer, FactoredJacobian) else 0)
        for layer in first.layers
    )
    return numbers * walk.objective.count * walk.objective.theta.element_size()


def fits_in_memory(walk: Walk, first: LabelRows) -> bool:
    """Whether a second walk can be spared."""
    return kept_bytes(walk, first) <= KEPT_BYTES


def _require_finite(sums: LayerSums | FlatSums) -> None:
    tensors = (sums.inputs, sums.slopes) if isinstance(sums, LayerSums) else (sums.values,)
    if not all(bool(torch.isfinite(t).all()) for t in tensors):
        where = sums.layer.layout.places[0][0]
        raise NonFiniteGradient(
            f"the curvature of the parameters that begin at coordinate {where} is not finite. Expected finite layer inputs and gradients; look at the activations of that layer."
        )
