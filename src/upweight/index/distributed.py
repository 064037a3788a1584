"""An index built by many ranks: each makes every so-manieth shard, the first writes them all.

The folder must be one that all ranks see; only rank 0 holds its lock and writes. Factors and basis are made together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from upweight.fitted import Fitted
from upweight.index.basis import choose
from upweight.index.build import FORMAT, VERSION, Plan, bar, open_or_begin, recorder_of, saved_of
from upweight.index.queries import layouts_of
from upweight.index.settings import Compression
from upweight.objective.data import Chosen
from upweight.parallel import Fold
from upweight.store import Store, locked
from upweight.store.manifest import NAME

PHASE = "index"


def build_together(
    fitted: Fitted, folder: Path, wanted: Compression, rows_per_shard: int | None, progress: bool | None
) -> Store:
    """The finished store, on every rank.

    Raises:
        DistributedError: a rank failed; what is written stays, and the same call on any number of ranks goes on from there.
    """
    fold = fitted.objective.fold
    with _writer(fold, folder):
        (begun, *_) = fold.exchanged(PHASE, (folder / NAME).exists())
        basis = None
        if not begun:
            basis = choose(fitted, wanted, layouts_of(fitted))
            _made_together(fitted)
        with fold.phase(PHASE):
            if fold.rank == 0:
                with fold.alone():
                    open_or_begin(fitted, folder, wanted, rows_per_shard, basis)
        fold.exchanged(PHASE, None)  # the manifest is there
        with fold.phase(PHASE):
            store = Store.open(folder, FORMAT, VERSION)
        _fill(store, fitted, progress)
    with fold.phase(PHASE):
        return Store.open(folder, FORMAT, VERSION)


@contextmanager
def _writer(fold: Fold, folder: Path) -> Iterator[None]:
    """The lock of the folder, held by rank 0 while any rank is at work."""
    if fold.rank:
        yield
        return
    with fold.phase(PHASE):
        lock = locked(folder)
        lock.__enter__()
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _made_together(fitted: Fitted) -> None:
    """What rank 0 would otherwise make by itself when it measures the compression."""
    if fitted.structured or fitted.iterates:
        fitted.blocked.curvature  # noqa: B018 - made now
    elif fitted.exact.fits:
        fitted.exact.curvature  # noqa: B018


def _fill(store: Store, fitted: Fitted, progress: bool | None) -> None:
    """Round after round a shard a rank, told to rank 0, which commits them in order."""
    fold = fitted.objective.fold
    todo = fold.exchanged(PHASE, _todo(store) if fold.rank == 0 else None)[0]
    if not todo:
        return
    recorder = recorder_of(store, fitted, saved_of(store))
    with bar(Plan.of(store.manifest).count, progress if fold.rank == 0 else False) as shown:
        for first in range(0, len(todo), fold.size):
            mine = todo[first + fold.rank : first + fold.rank + 1]
            with fold.phase(PHASE), fold.alone():
                made = [recorder.arrays(Chosen(fitted.objective.examples, np.arange(*ends))) for ends in mine]
            shards = fold.exchanged(PHASE, made, to=0)
            with fold.phase(PHASE):
                _commit(store, todo[first : first + fold.size], [one for part in shards for one in part])
            shown.update(sum(stop - start for start, stop in todo[first : first + fold.size]))
    fold.exchanged(PHASE, None)  # all is written


def _todo(store: Store) -> list[tuple[int, int]]:
    there = {(shard.start, shard.stop) for shard in store.shards("rows") if not shard.missing}
    return [ends for ends in Plan.of(store.manifest).shards() if ends not in there]


def _commit(store: Store, ends: Sequence[tuple[int, int]], shards: list[dict[str, np.ndarray]]) -> None:
    for (start, stop), arrays in zip(ends, shards, strict=False):  # none but on rank 0
        store.commit("rows", start, stop, arrays)
