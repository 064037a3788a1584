"""A measurement of a set of queries, ready to be taken at shifted outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, ShapeError
from upweight.fitted import Fitted
from upweight.gradients import NetworkEngine
from upweight.objective import Examples, Measure, SetMeasure, read_measure
from upweight.tiles import Jacobian
from upweight.tiles.layer_jacobians import LayerJacobian

AGGREGATES = (None, "mean", "sum", "set")


@dataclass(frozen=True)
class Again:
    """The Jacobians of more queries than may be held: captured anew, tile by tile, each time they are walked over."""

    fitted: Fitted
    examples: Examples

    def __iter__(self) -> Iterator[Jacobian]:
        engine = self.fitted.engine
        for where, batch in engine.batches(self.examples):
            yield engine.linearised(batch, self.examples.ids[where])[2]


@dataclass(frozen=True)
class Measurement:
    """φ of m queries: its values at any outputs, its gradient rows T, and the names of its results."""

    measure: Measure | SetMeasure
    outputs: Float[Tensor, "m o"]
    targets: Tensor
    jacobians: list[Jacobian] | Again
    query_ids: np.ndarray
    aggregate: str | None

    @property
    def over_set(self) -> bool:
        """True for one number over all queries that only shifted outputs can give."""
        return isinstance(self.measure, SetMeasure)

    @property
    def name(self) -> str:
        """The measure's name."""
        return self.measure.name

    @property
    def unit(self) -> str:
        """The unit of the result."""
        return (
            self.measure.unit
            if self.aggregate in (None, "set")
            else f"{self.measure.unit}, {self.aggregate} over {len(self.outputs)} queries"
        )

    @property
    def ids(self) -> np.ndarray:
        """One name a result row: the query, (query, output) for several outputs, or the set."""
        if self.over_set or self.aggregate is not None:
            return np.asarray([self.aggregate if self.aggregate not in (None, "set") else self.measure.name])
        components = self._components
        if components == 1:
            return self.query_ids
        names = np.empty(len(self.query_ids) * components, dtype=object)  # an object array keeps tuples whole
        names[:] = [(query, c) for query in self.query_ids.tolist() for c in range(components)]
        return names

    @property
    def _components(self) -> int:
        assert isinstance(self.measure, Measure)
        return self.measure.values(self.outputs[:1], self.targets[:1]).shape[1]

    def rows(self) -> Float[Tensor, "r p"]:
        """T, the gradient of every result with respect to θ, float64."""
        assert isinstance(self.measure, Measure)
        slopes = self.measure.gradient(self.outputs, self.targets)  # (m, c, o)
        start, found = 0, []
        for jacobian in self.jacobians:
            of_tile = [jacobian.vjp(u) for u in slopes[start : start + len(jacobian)].unbind(1)]
            start += len(jacobian)
            if self.aggregate is None:
                found.append(torch.stack([block.dense().double() for block in of_tile], 1))
            else:  # no more than one row is ever held
                ones = slopes.new_ones(len(jacobian), dtype=torch.float64)
                added = torch.stack([block.sum(ones) for block in of_tile])
                found = [added if not found else found[0].add_(added)]
        if self.aggregate is None:
            return torch.cat(found).flatten(0, 1)
        return found[0] / start if self.aggregate == "mean" else found[0]

    def layers(self) -> list[tuple[LayerJacobian, ...]]:
        """T tile by tile and layer by layer, one row a query and component: for measurements of each query."""
        return list(self.tiles())

    def tiles(self) -> Iterator[tuple[LayerJacobian, ...]]:
        """The same, one tile of queries after another."""
        assert isinstance(self.measure, Measure)
        slopes = self.measure.gradient(self.outputs, self.targets)  # (m, c, o)
        start = 0
        for jacobian in self.jacobians:
            yield jacobian.pulled(list(slopes[start : start + len(jacobian)].unbind(1)))
            start += len(jacobian)

    def output_layers(self) -> list[tuple[LayerJacobian, ...]]:
        """The Jacobians of all outputs tile by tile and layer by layer, one row a query and output."""
        found = []
        for jacobian in self.jacobians:
            units = torch.eye(self.outputs.shape[1], dtype=self.outputs.dtype, device=self.outputs.device)
            found.append(jacobian.pulled([unit.expand(len(jacobian), -1).contiguous() for unit in units]))
        return found

    def along(self, move: Float[Tensor, "p"]) -> Float[Tensor, "r"]:
        """T·move for one move of θ."""
        assert isinstance(self.measure, Measure)
        shifts = torch.cat([jacobian.jvp(move.unsqueeze(0)) for jacobian in self.jacobians]).squeeze(2)  # (m, o)
        return torch.einsum(
            "mco,mo->mc", self.measure.gradient(self.outputs, self.targets).to(shifts), shifts
        ).flatten()

    def output_rows(self) -> Float[Tensor, "m·o p"]:
        """The output Jacobians of all queries, stacked, float64."""
        return torch.cat([jacobian.dense() for jacobian in self.jacobians]).flatten(0, 1).double()

    def at_moves(self, moves: Float[Tensor, "k p"]) -> Float[Tensor, "r k"]:
        """The change of every result under k moves of θ, at outputs shifted to first order in the move."""
        return self.at_shifts(torch.cat([jacobian.jvp(moves) for jacobian in self.jacobians]))

    def at_outputs(self, outputs: Float[Tensor, "m o"]) -> Float[Tensor, "r"]:
        """Every result at other outputs of the same queries."""
        targets = self.targets.to(outputs.dtype) if self.targets.is_floating_point() else self.targets
        if isinstance(self.measure, SetMeasure):
            return self.measure.values(outputs.unsqueeze(2), targets)
        return self._gathered(self.measure.values(outputs, targets).unsqueeze(2)).flatten()

    def at_shifts(self, shifts: Float[Tensor, "m o k"]) -> Float[Tensor, "r k"]:
        """φ(η + shift) − φ(η) for k shifts of all outputs."""
        outputs = self.outputs.to(shifts.dtype)
        targets = self.targets.to(shifts.dtype) if self.targets.is_floating_point() else self.targets
        moved = outputs.unsqueeze(2) + shifts
        if isinstance(self.measure, SetMeasure):
            before = self.measure.values(outputs.unsqueeze(2), targets)
            return (self.measure.values(moved, targets) - before).unsqueeze(0)
        m, o, k = shifts.shape
        after = self.measure.values(
            moved.permute(2, 0, 1).reshape(k * m, o), targets.repeat(k, *[1] * (targets.ndim - 1))
        )
        change = after.view(k, m, -1) - self.measure.values(outputs, targets)  # (k, m, c)
        return self._gathered(change.permute(1, 2, 0)).flatten(0, 1)

    def _gathered(self, values: Float[Tensor, "m c x"]) -> Float[Tensor, "r c x"]:
        if self.aggregate == "mean":
            return values.mean(0, keepdim=True)
        return values.sum(0, keepdim=True) if self.aggregate == "sum" else values


def joined(parts: list[Measurement]) -> Measurement:
    """Several measurements of the same kind as one, without what their answers were made of."""
    outputs, targets = (torch.cat([getattr(part, name) for part in parts]) for name in ("outputs", "targets"))
    ids: np.ndarray = np.concatenate([part.query_ids for part in parts])
    return replace(parts[0], outputs=outputs, targets=targets, jacobians=[], query_ids=ids)


def measurement(fitted: Fitted, query: Any, measure: str | Callable[..., Tensor], aggregate: str | None) -> Measurement:
    """Read a query set and what is measured of it.

    Raises:
        ConfigError: an unknown measure or aggregate, or one without meaning for this loss.
        InputError: queries that cannot be scored.
    """
    if aggregate not in AGGREGATES:
        raise ConfigError(f"aggregate={aggregate!r} is unknown. Expected one of {', '.join(map(repr, AGGREGATES))}.")
    if query is None:
        raise ConfigError("query=None. Expected queries in the form of the training data, e.g. query=(X_test, y_test).")
    examples = fitted.adapted.codec.read(query, "query")
    engine, parts = fitted.engine, []
    again = Again(fitted, examples) if _many(fitted, len(examples)) else None
    jacobians: list[Jacobian] = []
    for where, batch in engine.batches(examples):
        outputs, targets, jacobian = engine.linearised(batch, examples.ids[where])
        parts.append((outputs, targets))
        if again is None:
            jacobians.append(jacobian)
    outputs, targets = (torch.cat(column) for column in zip(*parts, strict=True))
    if targets.shape[-1:] == (0,) and measure not in ("prediction", "mean"):
        raise ShapeError(
            f"the query has no targets, and measure={measure!r} needs them. Expected (X, y); without y only measure='prediction' and 'mean' have a meaning."
        )
    if measure == "loss":
        fitted.objective.loss.require_labels(targets, examples.ids)
    read = read_measure(measure, fitted.objective.loss, fitted.objective.trailing, aggregate == "set")
    if (
        aggregate is not None
        and isinstance(read, SetMeasure) != (aggregate == "set")
        and isinstance(measure, str)
        and measure in ("accuracy", "auc")
    ):
        aggregate = "set"
    if aggregate == "set" and not isinstance(read, SetMeasure):
        raise ConfigError(
            f"aggregate='set' found the per-query measure {measure!r}. Expected 'accuracy', 'auc' or a callable over the set; use 'mean' or 'sum'."
        )
    return Measurement(read, outputs, targets, again or jacobians, examples.ids, aggregate)


def _many(fitted: Fitted, count: int) -> bool:
    """Whether what a network's layers hold of so many queries is more than queries may take."""
    engine = fitted.engine
    return isinstance(engine, NetworkEngine) and count * engine.example_bytes > fitted.objective.room.queries
