"""Building an index: what it is made of, its basis, then shard after shard; what is there already is not made again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from upweight.errors import ApproximationWarning, ConfigError, StoreError, warn
from upweight.fitted import Fitted
from upweight.index.accuracy import measure_accuracy, points_held, sampled
from upweight.index.basis import Basis, choose
from upweight.index.contents import beside, encoded_names
from upweight.index.fingerprints import code_fingerprints, fingerprints
from upweight.index.lower import lower_bound
from upweight.index.queries import layouts_of
from upweight.index.rounding import Rounding
from upweight.index.saved import Saved, read
from upweight.index.settings import Compression
from upweight.index.walk import Recorder, gradients
from upweight.objective.data import Chosen
from upweight.router import SHARD_BYTES
from upweight.store import Store
from upweight.store.files import write_whole
from upweight.store.fingerprints import require_same
from upweight.store.manifest import NAME
from upweight.store.shards import composed
from upweight.tiles.compressed import compressed

FORMAT, VERSION = "upweight.index", 1

SHARD_ROWS = 65536
"""Rows of a shard at most, which ``SHARD_BYTES`` bounds as well."""

SAMPLE = 256
"""Training points that typical sizes are taken from."""

LOSSY = 0.5
"""Relative error of the compressed scores from which a build warns."""

CODE = ("code.upweight", "code.source", "code.torch")


@dataclass(frozen=True)
class Plan:
    """What a manifest says of the work: which rows each shard holds, and how many examples a pass takes."""

    count: int
    rows: int
    tile: int

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> Plan:
        """As it was written."""
        return cls(manifest["count"], manifest["rows_per_shard"], manifest["tile"])

    def shards(self) -> list[tuple[int, int]]:
        """First and last row of every shard."""
        return [(start, min(start + self.rows, self.count)) for start in range(0, self.count, self.rows)]


def open_or_begin(
    fitted: Fitted, folder: Path, wanted: Compression, rows_per_shard: int | None, basis: Basis | None = None
) -> Store:
    """The store of a folder, checked against the study and the settings; a new one where there is none, in the basis given or chosen.

    Raises:
        StaleStore: the folder holds an index of something else.
    """
    made_of = fingerprints(fitted) | code_fingerprints()
    asked = {f"compression.{name}": value for name, value in wanted.as_written().items()}
    asked["compression.rows_per_shard"] = rows_per_shard
    if not (folder / NAME).exists():
        return _begin(fitted, folder, wanted, rows_per_shard, made_of | asked, basis)
    store = Store.open(folder, FORMAT, VERSION)
    names = [*(name for name in made_of if name not in CODE), *asked]
    if committed(store) < store.manifest["count"]:
        names += CODE  # what is left must come out as if it had been made with the rest
    require_same(made_of | asked, store.manifest["made_of"], folder, names)
    return store


def committed(store: Store) -> int:
    """Training rows whose files are there."""
    count = store.manifest["count"]
    return sum(shard.stop - shard.start for shard in store.shards("rows") if shard.stop <= count and not shard.missing)


def _begin(
    fitted: Fitted,
    folder: Path,
    wanted: Compression,
    rows_per_shard: int | None,
    made_of: dict[str, Any],
    basis: Basis | None,
) -> Store:
    """Choose the basis, measure what it loses, and write the manifest, last."""
    tile = fitted.engine.tile
    basis = choose(fitted, wanted, layouts_of(fitted)) if basis is None else basis
    sample = gradients(fitted, sampled(fitted, points_held(basis.width, SAMPLE)), tile)
    rows = torch.cat([compressed(layers, basis.projection)[:, 0] for _, layers, _ in sample])
    rounding = Rounding.of(wanted.dtype, rows)
    saved = Saved.of(fitted, basis, rounding)
    bounds = wanted.bounds if wanted.bounds is not None else not fitted.structured and _bounded(fitted)
    arrays, described = saved.written()
    kept, contents = composed(folder, "basis", 0, basis.width, arrays)
    write_whole(kept.path, contents)
    accuracy = measure_accuracy(saved.fitted(fitted), basis, rounding, tile)
    if accuracy.relative > LOSSY:
        warn(
            f"what this index keeps of a gradient misses much of the scores: {accuracy}. Expected a relative error below {LOSSY}; keep more with size=, take compression='sketch', or recompute finalists with query(rerank=...).",
            ApproximationWarning,
        )
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "made_of": made_of,
        "count": fitted.objective.count,
        "parameters": fitted.objective.space.size,
        "rows_per_shard": rows_per_shard or shard_rows(wanted.row_bytes(basis.width), fitted.objective.room.shard),
        "tile": tile,
        "numbers": basis.width,
        "dtype": wanted.dtype,
        "bounds": bounds,
        "basis": described,
        "accuracy": accuracy.as_written(),
        "files": [kept.record(), *_names(folder, fitted.objective.examples.ids)],
    }
    return Store.begin(folder, manifest)


def _bounded(fitted: Fitted) -> bool:
    """Whether something is known to lie below the study's curvature."""
    try:
        return lower_bound(fitted) is not None
    except (ConfigError, ArithmeticError):
        return False


def shard_rows(row_bytes: int, most: int = SHARD_BYTES) -> int:
    """Rows of a shard that is neither long to make nor large."""
    return max(1, min(SHARD_ROWS, most // max(1, row_bytes)))


def _names(folder: Path, ids: np.ndarray) -> list[dict[str, Any]]:
    """The file of the training points' names; none where they are their positions."""
    if ids.dtype.kind in "iu" and np.array_equal(ids, np.arange(len(ids))):
        return []
    shard, contents = composed(folder, "names", 0, len(ids), encoded_names(ids))
    write_whole(shard.path, contents)
    return [shard.record()]


def saved_of(store: Store) -> Saved:
    """The basis and the factors of an index."""
    arrays = beside(store, "basis")
    if arrays is None:
        raise StoreError(f"{store.folder} names no basis. Expected an index this library has built; build it again.")
    manifest = store.manifest
    return read(arrays, manifest["basis"], manifest["parameters"], manifest["dtype"])


def fill(store: Store, fitted: Fitted, saved: Saved, progress: bool | None) -> None:
    """Make the shards that are not there."""
    plan, there = Plan.of(store.manifest), {(s.start, s.stop) for s in store.shards("rows") if not s.missing}
    todo = [ends for ends in plan.shards() if ends not in there]
    if not todo:
        return
    recorder = recorder_of(store, fitted, saved)
    with bar(plan.count, progress) as shown:
        shown.update(plan.count - sum(stop - start for start, stop in todo))
        for start, stop in todo:
            examples = Chosen(fitted.objective.examples, np.arange(start, stop))
            store.commit("rows", start, stop, recorder.arrays(examples))
            shown.update(stop - start)


def recorder_of(store: Store, fitted: Fitted, saved: Saved) -> Recorder:
    """What makes the arrays of a shard."""
    bounds = bool(store.manifest["bounds"])
    lower = lower_bound(fitted) if bounds else None
    return Recorder(saved.fitted(fitted), saved.basis, saved.rounding, lower, bounds, store.manifest["tile"])


def appended_recorder(store: Store, fitted: Fitted, saved: Saved) -> Recorder:
    """The same for examples the curvature holds no term of."""
    found = recorder_of(store, fitted, saved)
    return found if found.lower is None else replace(found, lower=found.lower.without_own)


def bar(count: int, progress: bool | None) -> Any:
    """A progress bar of examples; None shows it on a terminal."""
    return tqdm(total=count, unit="example", desc="index", disable=None if progress is None else not progress)


def stretches(start: int, count: int, rows: int) -> Iterator[tuple[int, int]]:
    """Appended rows cut into shards, as offsets from where they start."""
    for first in range(0, count, rows):
        yield start + first, start + min(first + rows, count)
