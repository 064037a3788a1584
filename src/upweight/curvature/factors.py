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
from upweight.linop import Kronecker, KroneckerEigen
from upweight.objective import Objective
from upweight.objective.data import Chosen
from upweight.objective.draws import Draws
from upweight.parallel import Fold
from upweight.solve.inverse import eigen
from upweight.tiles.layer_jacobians import FactoredJacobian, LayerJacobian, written_rows

Key = tuple[tuple[int, int], ...]
"""Where a part's weight and bias begin and end in θ: what tells parts apart."""


@dataclass(frozen=True)
class LabelRows:
    """One batch: where it lies, its weights, and for every layer the gradient rows of each label that stands for the example."""

    where: slice
    weights: Float[Tensor, "b"]
    layers: tuple[LayerJacobian, ...]


@dataclass(frozen=True)
class Walk:
    """How the training set is walked: which engine, which Fisher, which draws; every rank walks over its own part."""

    engine: Engine
    fisher: str
    seed: int
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
        return cls(engine, read_fisher(fisher, engine.objective.outputs), seed, share)

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

    @property
    def fold(self) -> Fold:
        """How what is found is summed."""
        return self.objective.fold

    def batches(self) -> Iterator[Callable[[int], LabelRows]]:
        """Every batch, as a draw of its labels by number: each number is independent, all from one forward pass.

        A rank without examples walks over the first one at weight zero, so that it knows the layers.
        """
        examples = self.objective.examples if self.share == 1 else Chosen(self.objective.examples, self.places)
        own, amounts = self.engine.own_batches(examples), self.weights
        start, stop = self.fold.share(len(examples))
        if start == stop:
            own, amounts = self.engine.batches(Chosen(examples, np.arange(1))), torch.zeros_like(self.weights)
        for where, batch in own:
            places = self.places[where]
            names = self.objective.examples.ids[places]
            outputs, targets, jacobian = self.engine.linearised(batch, names)
            require_finite_outputs(outputs, names)
            weights = amounts[where].to(outputs.dtype)

            def drawn(
                again: int,
                outputs=outputs,
                targets=targets,
                jacobian=jacobian,
                weights=weights,
                places=places,
                where=where,
            ) -> LabelRows:
                draws = Draws(self.seed, places, again)
                slopes = label_slopes(self.objective.loss, outputs, targets, self.fisher, draws)
                return LabelRows(where, weights, jacobian.pulled(slopes))

            yield drawn


@dataclass
class LayerSums:
    """Second moments of one linear map: Σ w·aaᵀ over examples and the positions reached, Σ w·ggᵀ over labels as well."""

    layer: FactoredJacobian
    inputs: Float[Tensor, "i i"] = field(init=False)
    slopes: Float[Tensor, "o o"] = field(init=False)
    total: Float[Tensor, ""] = field(init=False)

    def __post_init__(self) -> None:
        like = self.layer.inputs
        self.total = like.new_zeros((), dtype=torch.float64)
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
        self.total += (weights @ within.sum(1)).double()

    @property
    def means(self) -> tuple[Float[Tensor, "o o"], Float[Tensor, "i i"]]:
        """E Σ_s ggᵀ and the mean of aaᵀ over positions reached: their Kronecker product is K-FAC's block."""
        return self.slopes, self.inputs / max(float(self.total), torch.finfo(self.inputs.dtype).tiny)


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


def summed(walk: Walk, sums: Sums) -> Sums:
    """The second moments of all ranks, from each one's own."""
    keys = sorted(sums)
    tensors: list[Tensor] = []
    for key in keys:
        one = sums[key]
        tensors += [one.inputs, one.slopes, one.total] if isinstance(one, LayerSums) else [one.values]
    walk.fold.sum("second moments", tensors)
    return sums


def eigenbases(walk: Walk, sums: Sums) -> dict[Key, KroneckerEigen]:
    """K-FAC's eigenbasis of every layer, each layer taken by one rank and told to all."""
    keys = sorted(key for key, one in sums.items() if isinstance(one, LayerSums))
    products = [Kronecker(*sums[key].means) for key in keys]  # pyright: ignore[reportAttributeAccessIssue]

    def parts(product: Kronecker) -> tuple[Tensor, ...]:
        found = eigen(product)
        return found.left, found.right, found.values

    def like(product: Kronecker) -> tuple[Tensor, ...]:
        left, right = product.left, product.right
        return torch.empty_like(left), torch.empty_like(right), left.new_empty(len(left), len(right))

    def cost(product: Kronecker) -> float:
        return float(len(product.left) ** 3 + len(product.right) ** 3)

    found = walk.fold.each("eigendecompositions", products, cost, parts, like)
    return {key: KroneckerEigen(*one) for key, one in zip(keys, found, strict=True)}


def kept_bytes(walk: Walk, first: LabelRows) -> int:
    """What it takes to keep the layers of this rank's part from one walk."""
    start, stop = walk.fold.share(len(walk.places))
    numbers = sum(
        layer.slopes[0].numel() + (layer.inputs[0].numel() if isinstance(layer, FactoredJacobian) else 0)
        for layer in first.layers
    )
    return numbers * (stop - start) * walk.objective.theta.element_size()


def fits_in_memory(walk: Walk, first: LabelRows) -> bool:
    """Whether a second walk can be spared."""
    return kept_bytes(walk, first) <= walk.objective.room.kept


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
