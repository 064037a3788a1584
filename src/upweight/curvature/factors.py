"""Walks over the training set that collect what structured curvature is made of, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.curvature.fisher import label_slopes, read_fisher
from upweight.curvature.grams import add_gram, weighted
from upweight.errors import ConfigError, NonFiniteGradient
from upweight.gradients import Engine, engine_for
from upweight.objective import Objective
from upweight.objective.data import Chosen
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
    share: float = 1.0

    @classmethod
    def of(cls, source: Objective | Engine, fisher: str, seed: int, share: float = 1.0) -> Walk:
        """A walk of an objective, or of an engine already made; draws never touch the global seed.

        Raises:
            ConfigError: a share of the training set that is not above 0 and at most 1.
        """
        engine = engine_for(source) if isinstance(source, Objective) else source
        if not 0 < share <= 1:
            raise ConfigError(
                f"factor_share={share!r}. Expected a number above 0 and at most 1, the share of the training set that factors are estimated from."
            )
        return cls(engine, read_fisher(fisher, engine.objective.outputs), torch.Generator().manual_seed(seed), share)

    @cached_property
    def places(self) -> np.ndarray:
        """The training points walked over, evenly spaced."""
        weighing = self.objective.weights.cpu().numpy().nonzero()[0]
        count = len(weighing) if self.share < 1 else self.objective.count
        places = np.linspace(0, count - 1, max(1, round(self.share * count))).astype(int)
        return weighing[places] if self.share < 1 else places

    @cached_property
    def weights(self) -> Float[Tensor, "j"]:
        """Their weights, raised so that they stand for all."""
        chosen = self.objective.weights[self.places]
        return chosen if self.share == 1 else chosen * (self.objective.total_weight / float(chosen.sum()))

    @property
    def objective(self) -> Objective:
        """What is walked over."""
        return self.engine.objective

    def batches(self) -> Iterator[Callable[[], LabelRows]]:
        """Every batch, as a draw of its labels that may be taken again: each is independent, all from one forward pass."""
        examples = self.objective.examples
        for where, batch in self.engine.batches(examples if self.share == 1 else Chosen(examples, self.places)):
            names = self.objective.examples.ids[self.places[where]]
            outputs, targets, jacobian = self.engine.linearised(batch, names)
            require_finite_outputs(outputs, names)
            weights = self.weights[where].to(outputs.dtype)

            def drawn(outputs=outputs, targets=targets, jacobian=jacobian, weights=weights) -> LabelRows:
                slopes = label_slopes(self.objective.loss, outputs, targets, self.fisher, self.generator)
                return LabelRows(weights, jacobian.pulled(slopes))

            yield drawn


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

    def add(
        self,
        a: Float[Tensor, "b s i"],
        g: Float[Tensor, "b k s o"],
        weights: Float[Tensor, "b"],
        within: Float[Tensor, "b s"],
    ) -> None:
        """Add a batch, its inputs at the positions within."""
        rows, scale = weighted(a if bool(within.all()) else a * within.unsqueeze(2), weights)
        add_gram(self.inputs, rows.flatten(0, 1), scale)
        rows, scale = weighted(g, weights)
        add_gram(self.slopes, rows.flatten(0, 2), scale)
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
            add_gram(self.values, spread)
        else:
            self.values += spread.square().sum(0)


Sums = dict[Key, LayerSums | FlatSums]

WHOLE_BLOCK = 1024
"""Coordinates up to which a parameter without factors keeps its whole block: norms, and biases of their own."""


def collect(batches: Iterable[LabelRows], reduce: bool = False) -> Sums:
    """Second moments of every layer over the training set; reduced, with positions averaged before they are squared."""
    found: Sums = {}
    for rows in batches:
        within = reached(rows.layers)
        for layer in rows.layers:
            key = layer.layout.places
            if isinstance(layer, FactoredJacobian):
                sums = found.setdefault(key, LayerSums(layer))
                assert isinstance(sums, LayerSums)
                a, g, mine = positions(layer, within[layer.inputs.shape[1]], reduce)
                sums.add(a, g, rows.weights, mine)
            else:
                sums = found.setdefault(key, FlatSums(layer, layer.layout.width <= WHOLE_BLOCK))
                assert isinstance(sums, FlatSums)
                sums.add(written_rows(layer), rows.weights)
    return found


def positions(
    layer: FactoredJacobian, within: Float[Tensor, "b s"], reduce: bool
) -> tuple[Float[Tensor, "b t i"], Float[Tensor, "b k t o"], Float[Tensor, "b t"]]:
    """a, g and the positions that count; reduced, the mean input and the summed gradient of every example."""
    if not reduce or layer.inputs.shape[1] == 1:
        return layer.inputs, layer.slopes, within
    share = within.unsqueeze(2)
    mean = (layer.inputs * share).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp_min(1)
    return mean, layer.slopes.sum(2, keepdim=True), within.new_ones(len(within), 1)


def reached(layers: tuple[LayerJacobian, ...]) -> dict[int, Float[Tensor, "b s"]]:
    """For every number of positions: 1 where the gradient of some label arrives in some layer of that many, else 0.

    Padding takes no part in the factors, however long it is; a lone position always does.
    """
    found: dict[int, Tensor] = {}
    for layer in layers:
        if not isinstance(layer, FactoredJacobian):
            continue
        b, _, s, _ = layer.slopes.shape
        if s == 1:
            found[1] = layer.slopes.new_ones(b, 1)
        elif s not in found or not bool(found[s].all()):
            mine = layer.slopes.ne(0).any(3).any(1).to(layer.slopes.dtype)
            found[s] = mine if s not in found else torch.maximum(found[s], mine)
    return found


def kept_bytes(walk: Walk, first: LabelRows) -> int:
    """What it takes to keep the layers of the whole training set from one walk."""
    numbers = sum(
        layer.slopes[0].numel() + (layer.inputs[0].numel() if isinstance(layer, FactoredJacobian) else 0)
        for layer in first.layers
    )
    return numbers * len(walk.places) * walk.objective.theta.element_size()


def fits_in_memory(walk: Walk, first: LabelRows) -> bool:
    """Whether a second walk can be spared."""
    return kept_bytes(walk, first) <= KEPT_BYTES


def require_finite_outputs(outputs: Float[Tensor, "b o"], names: np.ndarray) -> None:
    """Refuse outputs that are not finite before they enter any sum, naming the example.

    Raises:
        NonFiniteGradient: the model's output for an example is NaN or infinite.
    """
    if not bool(torch.isfinite(outputs.sum())) and not bool(torch.isfinite(outputs).all()):
        place = int((~torch.isfinite(outputs)).any(1).nonzero()[0])
        raise NonFiniteGradient(
            f"the model's output for training example {names[place]} is NaN or infinite. Expected finite outputs; look at this example's input, or leave it out."
        )


def require_finite(sums: Sums, objective: Objective) -> None:
    """Refuse second moments that overflowed, naming the layer's first parameter.

    Raises:
        NonFiniteGradient: an input or a gradient of a layer is NaN, infinite, or too large to square.
    """
    names = {where.start: name for name, where in objective.space.slices().items()}
    for key, one in sums.items():
        tensors = (one.inputs, one.slopes) if isinstance(one, LayerSums) else (one.values,)
        if not all(bool(torch.isfinite(t).all()) for t in tensors):
            raise NonFiniteGradient(
                f"the curvature of the layer of {names[key[0][0]]!r} is not finite. Expected finite layer inputs and gradients whose squares do not overflow; look at the activations of that layer, or study the model in float64."
            )
