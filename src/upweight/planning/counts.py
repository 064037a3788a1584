"""FLOPs and bytes of every method from shapes alone: the same arithmetic for the model at hand and for one of 70 billion.

s positions, i inputs, o outputs of a layer; n training points, m queries, k labels that stand for an example; F the
forward pass of an example. Passes take no weight gradients: a backward pass is as many products as a forward one.

    walk             n·F·(1 + k)                                  forward once, back once a label
    second moments   n·s·(i² + k·o²)                              symmetric: half of two FLOPs a product
    eigenvectors     10·(i³ + o³)                                 LAPACK's divide and conquer, both factors
    Λ                n·[2s·(i² + k·o²) + 2·k·s·i·o], or the gradients formed first: 2·k·i·o·(s + i + o), the cheaper
    queries          m·[2F + 2·(i² + o²)], or Λ's + 2·i·o·(i + o) into the eigenbasis; and back, written out, where s > 1
    pairs            n·m·the cheapest rule of the router          a truncated one counts at its usual rank
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from upweight.curvature.fisher import labels_of
from upweight.planning.shapes import ModelShape
from upweight.router import (
    EXPECTED_STEPS,
    INDEX_QUERIES,
    KEPT_BYTES,
    PAIR_EXAMPLES,
    PAIR_QUERIES,
    RANKED_EXAMPLES,
    RANKED_FACTORS,
    RANKED_QUERIES,
    SHARD_BYTES,
    TILE_BYTES,
    USUAL_RANK,
    Room,
    approximates,
    batch_examples,
    cost_low_rank,
    cost_separable,
    dense_bytes,
    route_rotation,
    sample_size,
    worth_low_rank,
)

EIGEN = 10.0
"""FLOPs of a symmetric eigendecomposition, in d³."""

SKINNY = 3.0
"""What a FLOP costs where few examples meet few queries along all of a layer's numbers, which are read for little."""

SQUARED = 200.0
"""FLOPs in whose time a number of a gradient that was written out is read, squared and added up."""

WORKING = 6 * TILE_BYTES
"""Working sets of products, of LAPACK and of answers in words, which no shape tells."""

DOUBLE = 8
"""Bytes of a float64 number, in which answers are given and matrices are factored."""

AUTOGRAD = 1.25
"""What a pass holds in units of the numbers that are captured, which counts inputs twice: with what autograd keeps besides."""


@dataclass(frozen=True)
class Task:
    """What is asked.

    Attributes:
        points, queries: n and m.
        numbers, number_bytes: kept of a gradient by an index.
        memory, bounded: bytes that may be taken, and whether they were given: queries then count as written-out rows.
        fisher: as a study has it.
    """

    points: int
    queries: int
    numbers: int = 16384
    number_bytes: int = 2
    memory: int = 2**62
    fisher: str = "auto"
    bounded: bool = False

    def labels(self, outputs: int) -> int:
        """k: backward passes that stand for an example's labels."""
        return labels_of(self.fisher, outputs)


@dataclass(frozen=True)
class Work:
    """What a method takes.

    Attributes:
        passes, products, eigen: FLOPs of the model's own passes, of matrix products, and of eigendecompositions and Cholesky factors.
        factors: bytes of the curvature, kept while questions are asked.
        store: bytes on disk.
        peak: bytes at the most, beside model, data and what the program held before.
        note: what a reader should know.
    """

    method: str
    passes: float = 0.0
    products: float = 0.0
    eigen: float = 0.0
    factors: float = 0.0
    store: float = 0.0
    peak: float = 0.0
    note: str = ""

    @property
    def flops(self) -> float:
        """All of them."""
        return self.passes + self.products + self.eigen

    def plus(self, other: Work) -> Work:
        """One after the other."""
        return replace(
            self,
            passes=self.passes + other.passes,
            products=self.products + other.products,
            eigen=self.eigen + other.eigen,
            factors=max(self.factors, other.factors),
            store=self.store + other.store,
            peak=max(self.peak, other.peak),
        )


def ekfac_factors(shape: ModelShape, task: Task) -> Work:
    """Forming EK-FAC."""
    n, k = task.points, task.labels(shape.outputs)
    moments = turned = eigen = sides = largest = 0.0
    for count, s, i, o in shape.each():
        moments += count * n * s * (i * i + k * o * o)
        turned += count * n * rotation(s, i, o, k)
        eigen += count * EIGEN * (i**3 + o**3)
        sides += count * (i * i + o * o)
        largest = max(largest, float(max(i, o)) ** 2)
    keep = kept_bytes(shape, task, k)
    again = 1 if k == 1 and task.fisher != "empirical" else 0  # a second draw of labels for Λ
    walks = 1 + k + again if keep else (2 + k + k)
    factors = (sides + shape.tracked) * shape.item
    walk = keep + tile_bytes(shape, task, k)
    peak = factors + sides * shape.item + max(walk, keep + 3 * DOUBLE * largest)
    return Work("ekfac", n * shape.forward * walks, moments + turned, eigen, factors, peak=peak)


def kfac_factors(shape: ModelShape, task: Task) -> Work:
    """Forming K-FAC: one walk, no Λ."""
    n, k = task.points, task.labels(shape.outputs)
    found = ekfac_factors(shape, task)
    moments = sum(count * n * s * (i * i + k * o * o) for count, s, i, o in shape.each())
    peak = found.peak - kept_bytes(shape, task, k)
    return replace(found, method="kfac", passes=n * shape.forward * (1 + k), products=moments, peak=peak)


def diagonal_factors(shape: ModelShape, task: Task) -> Work:
    """Forming the Fisher's diagonal."""
    n, k = task.points, task.labels(shape.outputs)
    squares = sum(c * n * (2 if s == 1 else k * (2 * s + SQUARED)) * i * o for c, s, i, o in shape.each())
    bytes_ = shape.tracked * shape.item
    rows = max((k * i * o * shape.item for _, s, i, o in shape.each() if s > 1), default=0)  # written out, and squared
    peak = 2 * bytes_ + tile_bytes(shape, task, k) + 2.0 * max(rows, min(TILE_BYTES, tile_size(shape, task) * rows))
    return Work("diagonal", n * shape.forward * (1 + k), squares, factors=bytes_, peak=peak)


def scores(shape: ModelShape, task: Task, written: bool = False) -> Work:
    """m queries against n training points, first order, from the blocks' factors; written out where no truncation is known."""
    n, m = task.points, task.queries
    exact = written or not approximates(shape.tracked, m, n)
    products = sum(count * pair_flops(s, i, o, m, exact) for count, s, i, o in shape.each()) * n
    sample = 0.0 if exact else float(min(m, PAIR_QUERIES) * min(n, sample_size(n, PAIR_EXAMPLES)))
    for count, s, i, o in shape.each():
        turned, back = rotation(s, i, o, 1), 2.0 * i * o * (i + o)
        if s == 1 and not exact:
            turned, back = 2.0 * (i * i + o * o), 0.0
        if written:  # a diagonal turns nothing
            turned, back = 2.0 * s * i * o, 0.0
        ranked = min(m, RANKED_QUERIES) if s > 1 else 0  # turned once, and back for every damping
        dampings, some = len(RANKED_FACTORS), min(RANKED_EXAMPLES, tile_size(shape, task))
        products += count * (m * (turned + back) + ranked * (turned + dampings * back))
        products += count * some * 2 * i * o * (s + dampings * ranked) if ranked else 0
        products += count * sample * 2 * i * o
    chunk = query_chunk(shape, task, written)
    walks = -(-m // chunk)
    peak = 2.0 * DOUBLE * m * n + chunk * query_bytes(shape, task, written) + tile_bytes(shape, task)
    return Work("scores", 2 * shape.forward * (walks * n + m), products, peak=peak)


def query_bytes(shape: ModelShape, task: Task, written: bool = False) -> float:
    """What a query holds while training points are walked past: its layers, and their form in the cheapest rule.

    Where a bound is kept to it is what written-out rows hold, since a truncation may turn out not to do.
    """
    exact = written or task.bounded or not approximates(shape.tracked, task.queries, task.points)
    ready = largest = 0
    for count, s, i, o in shape.each():
        whole = i * o if written else 2 * i * o
        own = whole if exact or s > 1 else min(whole, (USUAL_RANK + 1) * (i + o))
        ready += count * own
        largest = max(largest, own if own == whole else 0)
    ready += largest  # copies while a layer is written out
    ready += sum(2 * one.count * one.width for one in shape.layers if not one.factored)
    return float(ready + shape.held) * shape.item


def query_chunk(shape: ModelShape, task: Task, written: bool = False) -> int:
    """Queries asked at a time: as many as fit into a quarter of the memory."""
    return max(1, min(task.queries, int(Room(task.memory).queries / max(1.0, query_bytes(shape, task, written)))))


def own_terms(shape: ModelShape, task: Task) -> Work:
    """gᵢᵀH⁻¹gᵢ of every point."""
    turned = sum(count * rotation(s, i, o, 1) for count, s, i, o in shape.each()) * task.points
    return Work("own", 2 * shape.forward * task.points, turned, peak=tile_bytes(shape, task) + 2 * TILE_BYTES)


def after_factors(factors: Work, asked: Work, shape: ModelShape) -> Work:
    """A question on top of factors: they stay, with Λ's inverse beside them."""
    inverse = shape.tracked * shape.item
    held = factors.factors + inverse
    whole = factors.plus(asked)
    return replace(whole, factors=held, peak=max(factors.peak, held + asked.peak))


def exact(shape: ModelShape, task: Task) -> Work:
    """The Hessian written out: p double backward passes an example, or Grams for a linear model; then Cholesky."""
    p, n, m = float(shape.tracked), task.points, task.queries
    if shape.linear:
        passes, products = 2 * shape.forward * n, n * p * p / max(1, shape.outputs)
    else:
        passes, products = 4 * shape.forward * n * p, 0.0
    solved = 2 * p * p * m + 2.0 * n * p * m
    return Work(
        "hessian",
        passes,
        products + solved,
        p**3,
        dense_bytes(int(p)),
        peak=dense_bytes(int(p)) + 2 * DOUBLE * m * (n + p),
    )


def iterated(shape: ModelShape, task: Task) -> Work:
    """Block conjugate gradients on the Gauss-Newton matrix, preconditioned by the rows that bend most."""
    n, m, p = task.points, task.queries, shape.tracked
    products = EXPECTED_STEPS * 4.0 * n * m * shape.forward / 2
    captured = min(KEPT_BYTES, n * shape.held * shape.outputs * shape.item)
    peak = captured + 2.0 * EXPECTED_STEPS * m * p * shape.item + 2 * DOUBLE * m * n
    walks = n * shape.forward * (1 + shape.outputs) + 2 * n * shape.forward
    return Work("ggn, block_cg", walks, products + 2.0 * n * m * p, peak=peak, note=f"{EXPECTED_STEPS} steps assumed")


def index_build(shape: ModelShape, task: Task) -> Work:
    """One pass over the training set, its gradients compressed in the eigenbasis and written."""
    n, r = task.points, min(task.numbers, shape.tracked)
    turned = sum(count * rotation(s, i, o, 1) for count, s, i, o in shape.each()) * n
    lost = sum(count * 4.0 * i * o * (i + o) for count, _, i, o in shape.each())
    turned += lost * INDEX_QUERIES
    return Work(
        "index",
        2 * shape.forward * n,
        turned,
        store=float(n) * r * task.number_bytes,
        peak=tile_bytes(shape, task) + 3 * SHARD_BYTES,
    )


def rotation(s: int, i: int, o: int, k: int) -> float:
    """FLOPs that bring k gradients of an example into the eigenbasis, squared and added up."""
    if s == 1:
        return 2.0 * (i * i + k * o * o) + 2.0 * i * o
    formed = 2.0 * k * s * i * o
    if route_rotation(s, i, o, k) == "factors":
        return formed + 2.0 * s * (i * i + k * o * o)
    return formed + 2.0 * k * i * o * (i + o)


def pair_flops(s: int, i: int, o: int, m: int, exact: bool) -> float:
    """FLOPs of an example of a layer with m queries."""
    if s == 1:
        return m * (cost_separable(0, i, o) if exact else min(cost_separable(r, i, o) for r in (0, USUAL_RANK)))
    written = cost_low_rank(0, s, i, o, m) + (SKINNY - 1) * 2.0 * o * i * m
    truncated = worth_low_rank(s, i, o, m) and not exact
    return cost_low_rank(USUAL_RANK, s, i, o, m) if truncated else written


def kept_bytes(shape: ModelShape, task: Task, k: int) -> float:
    """Layers' inputs and slopes kept from one walk to the next; 0 where they do not fit."""
    numbers = sum(count * s * (i + k * o) for count, s, i, o in shape.each())
    found = float(numbers) * task.points * shape.item
    return found if found <= Room(task.memory).kept else 0.0


def tile_size(shape: ModelShape, task: Task) -> int:
    """Examples of a batch."""
    budget = Room(task.memory).batch_for(task.labels(shape.outputs))
    return min(task.points, batch_examples(shape.held * shape.item, shape.largest * shape.item, budget))


def tile_bytes(shape: ModelShape, task: Task, labels: int = 1) -> float:
    """What a batch holds while it is captured and pulled back along so many labels.

    Several labels are put side by side, which copies; positions are brought to the second axis, which copies again.
    """
    tile = tile_size(shape, task)
    copies = sum(count * s * o * (1 if s == 1 else 2) for count, s, _, o in shape.each()) if labels > 1 else 0
    return float(tile * (AUTOGRAD * shape.held + labels * (shape.edges + copies)) * shape.item)


METHODS: dict[str, Callable[[ModelShape, Task], Work]] = {
    "ekfac": lambda shape, task: after_factors(ekfac_factors(shape, task), scores(shape, task), shape),
    "kfac": lambda shape, task: after_factors(kfac_factors(shape, task), scores(shape, task), shape),
    "diagonal": lambda shape, task: after_factors(
        diagonal_factors(shape, task), scores(shape, task, written=True), shape
    ),
    "hessian": exact,
    "ggn, block_cg": iterated,
    "self_influence, ekfac": lambda shape, task: after_factors(
        ekfac_factors(shape, task), own_terms(shape, task), shape
    ),
    "index, ekfac": lambda shape, task: after_factors(ekfac_factors(shape, task), index_build(shape, task), shape),
}
"""What can be asked, and how it is counted."""


def method_work(method: str, shape: ModelShape, task: Task) -> Work:
    """What a method takes, under its own name."""
    found = METHODS[method](shape, task)
    return replace(found, method=method, peak=found.peak + WORKING)
