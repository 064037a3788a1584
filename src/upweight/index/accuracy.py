"""How well compressed rows give back the uncompressed scores, measured on training points before an index is built."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import plain
from upweight.fitted import Fitted
from upweight.gradients import NetworkEngine
from upweight.index.basis import Basis
from upweight.index.queries import compressed_queries, solve, solved_layers
from upweight.index.rounding import Rounding
from upweight.index.walk import gradients
from upweight.objective.data import Chosen
from upweight.questions.question import Question
from upweight.questions.sensitivity import agreement
from upweight.router import INDEX_EXAMPLES, INDEX_QUERIES, chunk
from upweight.tiles.compressed import compressed
from upweight.tiles.layer_jacobians import LayerJacobian, sum_of, written_rows


@dataclass(frozen=True)
class Accuracy:
    """Compressed scores against uncompressed ones, training points taken as queries.

    Attributes:
        relative: ‖compressed − uncompressed‖/‖uncompressed‖ over all pairs.
        pearson: over all pairs.
        spearman: over the points, averaged over queries.
        queries, points: how many of each.
    """

    relative: float
    pearson: float
    spearman: float
    queries: int
    points: int

    def __str__(self) -> str:
        return f"relative error {self.relative:.1%}, Pearson {self.pearson:.4f}, Spearman {self.spearman:.3f} on {self.queries} × {self.points} training points"

    @classmethod
    def read(cls, said: dict[str, Any]) -> Accuracy:
        """As a manifest has it."""
        read: dict[str, Any] = {name: float("nan") if value is None else value for name, value in said.items()}
        return cls(**read)

    def as_written(self) -> dict[str, float | None]:
        """As a manifest has it: what is not a number is nothing."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def sampled(fitted: Fitted, count: int, odd: bool = False) -> Chosen:
    """Training points evenly spaced; the odd ones lie between the others."""
    n = fitted.objective.count
    places = np.unique(np.linspace(0, n - 1, 2 * min(count, (n + 1) // 2)).astype(int))
    return Chosen(fitted.objective.examples, places[1::2] if odd and len(places) > 1 else places[::2])


def points_held(width: int, most: int) -> int:
    """Points whose compressed rows may be held together in float64."""
    return max(INDEX_QUERIES, min(most, HELD_BYTES // (8 * width)))


def measure_accuracy(fitted: Fitted, basis: Basis, rounding: Rounding, tile: int) -> Accuracy:
    """Score a sample both ways, a tile of points at a time where the queries may be written out, else a layer at a time."""
    question = Question(fitted, sampled(fitted, _queries(fitted, basis), odd=True), "loss", "first")
    measured = question.measured
    assert measured is not None
    theta = fitted.objective.theta
    copies = 1 if fitted.settings.memory is None else 4  # while they are solved for
    whole = not fitted.structured or copies * INDEX_QUERIES * len(theta) * theta.element_size() <= held_bytes(fitted)
    points = sampled(fitted, points_held(basis.width, INDEX_EXAMPLES) if whole else _few(fitted))
    solved, kept, stored, exact = solve(fitted, measured) if whole else None, [], [], []
    for _, layers, _ in gradients(fitted, points, tile):
        rows = compressed(layers, basis.projection)[:, 0]
        stored.append(rounding.decode(rounding.encode(rows)))
        exact.append(solved.against(layers) if solved is not None else [])
        kept.append({} if whole else {layer.layout.places: layer for layer in layers})
    queries, _, _ = compressed_queries(fitted, measured, basis)
    if not whole:
        for places, x in solved_layers(fitted, measured):
            for found, tile_layers in zip(exact, kept, strict=True):
                found.append(_against(tile_layers[places], x))
        exact = [sum_of(found) for found in exact]
    return _compared(queries.double().cpu() @ torch.cat(stored).T, torch.cat(exact).T.double().cpu())  # pyright: ignore


HELD_BYTES = 2**29


def held_bytes(fitted: Fitted) -> int:
    """Of queries written out to all parameters, or of the factors of points where they may not be."""
    return min(HELD_BYTES, fitted.objective.room.queries)


def _queries(fitted: Fitted, basis: Basis) -> int:
    """Queries whose rows of the widest layer fit while they are solved for: sixteen, or fewer under a bound, four at least."""
    if fitted.settings.memory is None:
        return INDEX_QUERIES
    widest = max(layout.width for layout, _ in basis.projection.parts)
    return min(INDEX_QUERIES, max(4, held_bytes(fitted) // (4 * widest * fitted.objective.theta.element_size())))


def _few(fitted: Fitted) -> int:
    """Points whose layers' factors are held together."""
    engine = fitted.engine
    return (
        max(INDEX_QUERIES, held_bytes(fitted) // engine.example_bytes)
        if isinstance(engine, NetworkEngine)
        else INDEX_QUERIES
    )


def _against(layer: LayerJacobian, rows: Float[Tensor, "m q"]) -> Float[Tensor, "b m"]:
    """Products with one layer's gradients, written out a few at a time."""
    size = chunk(layer.layout.width, rows.element_size())
    places = torch.arange(len(layer), device=layer.slopes.device).split(size)
    return torch.cat([written_rows(layer.select(at))[:, 0].to(rows) @ rows.T for at in places])  # pyright: ignore


def _compared(found: Float[Tensor, "m b"], exact: Float[Tensor, "m b"]) -> Accuracy:
    tiny = torch.finfo(torch.float64).tiny
    pair = torch.stack([found.flatten(), exact.flatten()])
    centred = pair - pair.mean(1, keepdim=True)
    lengths = centred.norm(dim=1).prod()
    return Accuracy(
        relative=float((found - exact).norm() / exact.norm().clamp_min(tiny)),
        pearson=float(centred.prod(0).sum() / lengths) if float(lengths) > 0 else float("nan"),
        spearman=float(plain(agreement(found.T, exact.T))),  # pyright: ignore
        queries=len(found),
        points=found.shape[1],
    )
