"""A query answered from an index: one pass over its rows, gradients computed again where that is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Int, Tensor
from upweight.errors import BudgetError, ConfigError, NonFiniteGradient, StaleStore, listing, plain
from upweight.fitted import Fitted
from upweight.index.certify import certify
from upweight.index.contents import Contents
from upweight.index.held import Held, Sought
from upweight.index.info import IndexInfo
from upweight.index.lower import Lower
from upweight.index.queries import Solved, compressed_queries, solve
from upweight.index.ranking import Ranking
from upweight.index.saved import Saved
from upweight.index.scan import Ends
from upweight.index.walk import gradients
from upweight.objective import Examples
from upweight.objective.data import Chosen
from upweight.questions.measuring import Measurement
from upweight.questions.question import MeasureLike, Question

HELD_BYTES = 2**31
"""Of queries written out to all parameters, which recomputing takes."""


@dataclass(frozen=True)
class Asking:
    """What is asked of an index."""

    query: Any
    k: int
    measure: MeasureLike
    aggregate: str | None
    rerank: int | None
    certified: bool

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise ConfigError(f"query found k={self.k!r}. Expected a whole number above zero.")
        if self.rerank is not None and (not isinstance(self.rerank, int) or self.rerank < self.k):
            raise ConfigError(
                f"query found rerank={self.rerank!r} with k={self.k}. Expected a whole number of at least k: how many at each end are ranked again."
            )


@dataclass(frozen=True)
class Source:
    """An index with the study it was built from.

    Attributes:
        fitted: the study, with its factors as the index keeps them.
        appended: data that were appended, by their fingerprint, as far as they are at hand.
    """

    fitted: Fitted
    saved: Saved
    contents: Contents
    appended: dict[str, Examples]

    @property
    def weights(self) -> Float[Tensor, "n"]:
        """wᵢ of every row; the mean weight for what was appended."""
        objective = self.fitted.objective
        more = self.contents.count - self.contents.trained
        mean = objective.total_weight / objective.count
        return torch.cat([objective.weights.cpu().double(), torch.full((more,), mean, dtype=torch.float64)])

    def held(self) -> Held:
        """Its rows, ready to be read."""
        contents = self.contents
        return Held(contents.store, contents.shards, self.saved.rounding, self.weights, contents.gone)

    def examples(self, rows: Int[Tensor, "c"]) -> Iterator[tuple[Tensor, Examples, bool]]:
        """Where in ``rows`` they stand, the examples themselves, and whether they were trained on.

        Raises:
            StaleStore: appended data are needed and not at hand.
        """
        trained = rows < self.contents.trained
        if bool(trained.any()):
            yield trained, Chosen(self.fitted.objective.examples, rows[trained].numpy()), True
        for one in self.contents.appends:
            mine = (rows >= one.start) & (rows < one.stop)
            if bool(mine.any()):
                if one.data not in self.appended:
                    names = listing(self.contents.names[rows[mine].numpy()].tolist())
                    raise StaleStore(
                        f"the gradients of the appended {names} are to be computed again, and their data are not at hand. Expected them: uw.Index.open(path, study, appended=data)."
                    )
                yield mine, Chosen(self.appended[one.data], (rows[mine] - one.start).numpy()), False

    def recompute(
        self, rows: Int[Tensor, "c"], solved: Solved, lower: Lower | None
    ) -> tuple[Float[Tensor, "m c"], Float[Tensor, "c"]]:
        """Effects from gradients computed again, and bounds of wᵢ‖gᵢ‖ in H⁻¹."""
        effects = torch.empty(len(solved.constant), len(rows), dtype=torch.float64)
        own = torch.zeros(len(rows), dtype=torch.float64)
        tile = self.contents.store.manifest["tile"]
        for mine, examples, trained in self.examples(rows):
            bound = lower if lower is None or trained else lower.without_own
            parts = list(self._products(examples, tile, solved, bound))
            effects[:, mine] = torch.cat([products for products, _ in parts], 1)
            own[mine] = torch.cat([bounds for _, bounds in parts])
        weights = self.weights[rows]
        effects = (effects + solved.constant.cpu().double()[:, None]) * weights
        return effects, weights * (own + (lower.pull if lower is not None else 0.0))

    def _products(
        self, examples: Examples, tile: int, solved: Solved, lower: Lower | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for names, layers, own in gradients(self.fitted, examples, tile, lower):
            bounds = torch.zeros(len(names), dtype=torch.float64) if own is None else own.cpu()
            yield solved.against(layers).T.double().cpu(), bounds


def answer(source: Source, asking: Asking) -> Ranking:
    """Both ends of every query's ranking."""
    question = Question(source.fitted, asking.query, asking.measure, "first", asking.aggregate)
    measured = _measured(question)
    source.fitted.stationarity.warn()
    k = min(asking.k, source.contents.count - int(source.contents.gone.sum()))
    if not k:
        raise ConfigError(
            "every row of the index is deleted. Expected at least one; append data, or build another index."
        )
    info = IndexInfo.of(source.contents.store, source.contents, source.contents.trained)
    if asking.certified:
        _require_room(source.fitted, measured)
        found = certify(source.fitted, measured, source.saved.basis, source.held(), k, source.recompute)
        words = f"{found.verdict}; {info.compression}; {found.looked_at:,} of {source.contents.count:,} gradients computed again"
        return _ranking(source, measured, found.ends, words, found.certified.numpy())
    ends, verdict = _from_rows(source, measured, max(k, asking.rerank or 0))
    words = f"{verdict}; {info.compression}, measured {info.accuracy}"
    if asking.rerank is not None:
        _require_room(source.fitted, measured)
        solved, rows = solve(source.fitted, measured), ends.rows()
        ends = Ends.of(k)
        ends.add(source.recompute(rows, solved, None)[0], rows)
        words = f"{solved.verdict}; {info.compression}, the first {asking.rerank} at each end ranked again by the uncompressed method"
    return _ranking(source, measured, ends, words, None)


def _from_rows(source: Source, measured: Measurement, k: int) -> tuple[Ends, str]:
    rows, constant, verdict = compressed_queries(source.fitted, measured, source.saved.basis)
    _require_finite(rows, measured)
    held, ends = source.held(), Ends.of(min(k, source.contents.count))
    sought = Sought(source.saved.rounding.folded(rows.cpu()), constant.cpu().double())
    for places, scores, _ in held.scores(sought):
        ends.add(scores, places, held.gone[places])
    return ends, verdict


def _measured(question: Question) -> Measurement:
    found = question.measured
    if found is None or found.over_set:
        raise ConfigError(
            f"an index found measure={question.measure!r}, which is no sum over parameters of one number a query. Expected 'loss', 'margin' or another measure of each query; ask study.drop() for it."
        )
    return found


def _require_finite(rows: Float[Tensor, "m r"], measured: Measurement) -> None:
    bad = ~torch.isfinite(rows).all(1)
    if bool(bad.any()):
        name = plain(measured.ids[int(bad.nonzero()[0])])
        raise NonFiniteGradient(
            f"the gradient of query {name!r} is NaN or infinite. Expected finite inputs, targets and measures; look at this query."
        )


def _require_room(fitted: Fitted, measured: Measurement) -> None:
    needed = len(measured.ids) * fitted.objective.space.size * fitted.objective.theta.element_size()
    if needed > HELD_BYTES:
        raise BudgetError(
            f"{len(measured.ids)} queries written out to {fitted.objective.space.size:,} parameters take {needed:,} bytes. Expected at most {HELD_BYTES:,}; ask fewer queries at a time, aggregate='mean', or without rerank and certified."
        )


def _ranking(source: Source, measured: Measurement, ends: Ends, verdict: str, certified: np.ndarray | None) -> Ranking:
    names = source.contents.names
    return Ranking(
        query_ids=np.asarray(measured.ids),
        top_ids=names[ends.top.rows.numpy()],
        top=ends.top.values.double().numpy(),
        bottom_ids=names[ends.bottom.rows.numpy()],
        bottom=-ends.bottom.values.double().numpy(),
        certified=certified,
        measure=measured.name,
        unit=measured.unit,
        protocol=source.fitted.protocol,
        verdict=verdict,
        notes=source.fitted.adapted.notes,
    )
