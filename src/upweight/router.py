"""The router: which road is cheapest in FLOPs inside a memory budget. Pure arithmetic, and the only place that decides."""

from __future__ import annotations

from dataclasses import dataclass

TILE_BYTES = 2**24
"""A tile's working set: large enough for efficient products, small beside any budget."""

BATCH_BYTES, BATCH_EXAMPLES = 24 * TILE_BYTES, 4096
"""What a network's layers hold of a batch at the most, and its examples."""

TENSOR_BYTES = 2 * TILE_BYTES
"""The largest tensor of a batch: beyond it glibc takes every tensor anew from the system, which costs more than a batch gains."""

SHARD_BYTES = 2**26
"""A shard of an index: a unit of work, of resuming and of checksums."""

EXPECTED_STEPS = 12
"""Steps the shared Krylov space of a hundred rows usually needs; only the choice of solver rests on it."""

KEPT_BYTES = 2**30
"""Layer inputs and gradients of the training set are kept from one walk to the next up to this size."""

LEAST_MEMORY = 2**26
"""Below this no budget is kept to: what a process holds rounds to it."""


@dataclass(frozen=True)
class Room:
    """How a budget of bytes is divided: a quarter for what is kept between walks, a quarter for queries, an eighth a batch.

    The rest is for factors, answers, and what passes hold beside.
    """

    memory: int

    @property
    def whole(self) -> int:
        """All of it, as far as a budget is kept to."""
        return max(LEAST_MEMORY, self.memory)

    @property
    def kept(self) -> int:
        """Layers' inputs and slopes from one walk to the next."""
        return min(KEPT_BYTES, self.memory // 4)

    @property
    def queries(self) -> int:
        """Queries that are ready to meet training points."""
        return self.whole // 4

    @property
    def batch(self) -> int:
        """What is captured at a time."""
        return min(BATCH_BYTES, self.memory // 8)

    def batch_for(self, labels: int) -> int:
        """The same where so many labels are pulled back, every one with slopes of its own."""
        return 2 * self.batch // (1 + labels)

    @property
    def sample(self) -> int:
        """Examples captured together to measure a truncation on."""
        return self.whole // 8

    @property
    def shard(self) -> int:
        """A shard of an index while it is made."""
        return min(SHARD_BYTES, self.whole // 16)


UNBOUNDED = Room(2**62)
"""No budget to speak of."""

MATRICES_HELD = 3
"""H, its factor and its inverse: what the dense road keeps in memory at once."""

MOST_ROWS = 2000
"""Rows of the most curvature that a preconditioner of a Gauss-Newton matrix takes exactly."""

WOODBURY_SHARE = 4
"""A group's own system pays when it is this many times smaller than p: it is solved in addition to two products."""


def chunk(numbers: int, item: int, budget: int = TILE_BYTES) -> int:
    """Examples handled at a time when each needs this many numbers of working memory."""
    return max(1, budget // max(1, numbers * item))


def batch_examples(held: int, largest: int, budget: int) -> int:
    """Examples captured at a time when each holds this many bytes, so many of them in one tensor."""
    return min(BATCH_EXAMPLES, max(1, min(budget // max(1, held), TENSOR_BYTES // max(1, largest))))


def dense_bytes(p: int) -> int:
    """What the exact dense road holds at once, in float64."""
    return MATRICES_HELD * 8 * p * p


def route_product(s: int, i: int, o: int, m: int, item: int) -> tuple[str, int]:
    """How Σ_s g[s] ⊗ a[s] meets m full matrices (o, i), and how many examples at a time.

    through   push every position through all matrices      2·s·m·o·(i + 1) FLOPs, s·m·o numbers
    written   write the gradient out, then one product      2·o·i·(s + m) FLOPs, o·i numbers
    """
    costs = {"through": 2.0 * s * m * o * (i + 1), "written": 2.0 * o * i * (s + m)}
    how = min(costs, key=lambda name: costs[name])
    return how, chunk(s * m * o, item) if how == "through" else chunk(o * i, item, TENSOR_BYTES)


def route_rotation(s: int, i: int, o: int, k: int) -> str:
    """How k gradients Σ_s g ⊗ a of an example come into an eigenbasis, besides 2·k·s·o·i to form them.

    factors     turn the inputs once and every label's slopes    2·s·(i² + k·o²)
    gradients   turn the gradients once formed                   2·k·o·i·(o + i)
    """
    return "factors" if s * (i * i + k * o * o) <= k * o * i * (o + i) else "gradients"


TRUNCATION_ERROR = 0.04
"""Relative error over all pairs and layers that truncations may make: a Pearson correlation of .999 with the exact scores."""

EXACT_FLOPS = 2e10
"""Work below which pairs are never approximated: a fraction of a second."""

MOST_RANKS = 64
"""Ranks up to which a truncation is tried."""

USUAL_RANK = 12
"""The rank at which a truncation usually does."""

WORTH_RANK = 16
"""Where a low rank this high does not pay, no query's matrix is decomposed."""

PAIR_QUERIES, PAIR_EXAMPLES = 64, (64, 512)
"""Pairs on which a truncation's error is measured, drawn from all: a few large scores decide, so that fewer miss them."""

RANKED_FACTORS, RANKED_QUERIES, RANKED_EXAMPLES = (1.0, 10.0, 0.1), 16, 64
"""Multiples of a damping that a rule chose, at which rankings are compared with its own, and the pairs that are ranked."""

INDEX_QUERIES, INDEX_EXAMPLES = 16, 256
"""Training points that stand for queries, and others that they are scored against, where an index measures what it loses."""

SAMPLED_SHARE = 1 / 16
"""Share of the training set that is looked at where a sample will do."""


def sample_size(count: int, bounds: tuple[int, int]) -> int:
    """Examples of a sample: a sixteenth of all, within bounds."""
    least, most = bounds
    return min(max(int(SAMPLED_SHARE * count), least), most)


def approximates(p: int, m: int, n: int) -> bool:
    """Whether m queries of p numbers meet n examples in more work than is done exactly: 2·p·m·n FLOPs."""
    return 2.0 * p * m * n > EXACT_FLOPS


def cost_separable(rank: int, i: int, o: int) -> float:
    """FLOPs of a pair of a layer used once an example, in an eigenbasis.

    rank r   separable                2·r·(o + i)
    rank 0   written out, exact       2·o·i
    """
    return 2.0 * rank * (o + i) if rank else 2.0 * o * i


def cost_low_rank(rank: int, s: int, i: int, o: int, m: int) -> float:
    """FLOPs of an example of a layer shared by s positions with m queries.

    rank r   every position against every factor     2·s·m·r·(o + i)
    rank 0   written out, see ``route_product``, exact
    """
    return 2.0 * s * m * rank * (o + i) if rank else min(2.0 * s * m * o * (i + 1), 2.0 * o * i * (s + m))


def worth_low_rank(s: int, i: int, o: int, m: int) -> bool:
    """Whether m queries' matrices are decomposed at all."""
    return cost_low_rank(WORTH_RANK, s, i, o, m) < cost_low_rank(0, s, i, o, m)


def route_ghost(s: int, t: int, i: int, o: int, m: int) -> bool:
    """Whether m queries of t positions meet an example's s from their factors: 2·s·t·m·(o + i) FLOPs, no gradient written."""
    return 2.0 * s * t * m * (o + i) < min(2.0 * s * m * o * (i + 1), 2.0 * o * i * (s + m))


def route_inverse(n: int, p: int, rows: int, budget: int) -> str:
    """How a linear model's H is inverted for this many rows.

    cholesky   form, factor and solve: n·p² + p³/3 FLOPs, three matrices of p²
    block_cg   about a dozen products of all rows: 4·n·p FLOPs a row and step
    """
    dense = float(n) * p * p + p**3 / 3
    iterative = 4.0 * EXPECTED_STEPS * n * p * rows
    return "block_cg" if iterative < dense or dense_bytes(p) > budget else "cholesky"


def order_costs(n: int, p: int, rows: int, linear: bool) -> dict[str, float]:
    """FLOPs of the two orders of a drop of every point, for the message that names both.

    first    solve for the measurement rows, then one product: the cheaper inverse, and 2·n·p a row
    newton   factor and write out H⁻¹, and every point's own JᵢH⁻¹Jᵢᵀ: n·p² for a linear model, at most o times that
    """
    factor = float(n) * p * p + p**3 / 3
    iterative = 4.0 * EXPECTED_STEPS * n * p * rows if linear else factor
    first = min(factor, iterative) + 2.0 * n * p * rows
    return {"first": first, "newton": factor + p**3 + float(n) * p * p + 2.0 * n * p * rows}


def route_group(outputs: int, p: int) -> str:
    """How the Newton step of a group of a linear model is taken, by its number of outputs.

    woodbury   one system of |S|·o unknowns against the inverse at hand: outputs·p² + outputs³/3
    retained   factor what remains: p³/3
    """
    return "woodbury" if WOODBURY_SHARE * outputs < p else "retained"


def keeps_directions(p: int, rows: int, item: int, budget: int) -> bool:
    """Whether block conjugate gradients may keep every direction and its product for the steps usually needed."""
    return 2 * EXPECTED_STEPS * rows * p * item <= budget // 4
