"""What an index holds: the rows of the training set, rows appended since, and which of them are deleted.

Rows are numbered: the training set first, then what was appended, in the order it came. An append counts once all of it is
there; one that was interrupted is finished by the same call, or replaced by another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from upweight._typing import Bool, Tensor
from upweight.errors import CorruptStore, IndexOutOfRange, InputError, listing
from upweight.store import Store
from upweight.store.shards import Shard, read_record


@dataclass(frozen=True)
class Append:
    """Examples that were added at once.

    Attributes:
        data: their fingerprint.
    """

    start: int
    count: int
    data: str

    @property
    def stop(self) -> int:
        """Where the next rows begin."""
        return self.start + self.count


@dataclass(frozen=True)
class Contents:
    """A store's rows, as far as its journal says."""

    store: Store

    @property
    def trained(self) -> int:
        """Rows of the training set."""
        return self.store.manifest["count"]

    @cached_property
    def appends(self) -> list[Append]:
        """What was appended and is all there."""
        found, end = [], self.trained
        for note in self.store.notes("append"):
            one = Append(note["start"], note["count"], note["data"])
            held = sum(shard.stop - shard.start for shard in self.added(one))
            if one.start == end and held == one.count:
                found, end = [*found, one], one.stop
        return found

    @property
    def begun(self) -> list[Append]:
        """Every append that was begun where the rows end now."""
        notes = [Append(note["start"], note["count"], note["data"]) for note in self.store.notes("append")]
        return [one for one in notes if one.start == self.count]

    def holds(self, data: str) -> bool:
        """Whether these examples were appended at once and are not all deleted."""
        return any(one.data == data and not bool(self.gone[one.start : one.stop].all()) for one in self.appends)

    def added(self, append: Append) -> list[Shard]:
        """The shards of one append."""
        shards = self.store.shards("added")
        return [shard for shard in shards if shard.extra["data"] == append.data and shard.extra["at"] == append.start]

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Every shard that counts, by its rows."""
        return (*self.store.shards("rows"), *(shard for one in self.appends for shard in self.added(one)))

    @property
    def count(self) -> int:
        """Rows, deleted ones included."""
        return self.appends[-1].stop if self.appends else self.trained

    @cached_property
    def names(self) -> np.ndarray:
        """The name of every row."""
        own = beside(self.store, "names")
        parts = [np.arange(self.trained) if own is None else decoded_names(own)]
        parts += [decoded_names(self.store.read(shard)) for one in self.appends for shard in self.added(one)]
        if len({part.dtype.kind for part in parts}) == 1:
            return np.concatenate(parts)
        found = np.empty(sum(map(len, parts)), dtype=object)
        found[:] = [item for part in parts for item in part.tolist()]
        return found

    @cached_property
    def gone(self) -> Bool[Tensor, "n"]:
        """Which rows are deleted."""
        found = torch.zeros(self.count, dtype=torch.bool)
        for note in self.store.notes("delete"):
            found[torch.as_tensor(note["rows"], dtype=torch.int64)] = True
        return found

    def rows_of(self, ids: np.ndarray) -> list[int]:
        """The living rows of some names; none for a name that was deleted.

        Raises:
            IndexOutOfRange: a name that no row ever had.
        """
        places: dict[object, list[int]] = {}
        for row, name in enumerate(self.names.tolist()):
            places.setdefault(name, []).append(row)
        missing = [item for item in ids.tolist() if item not in places]
        if missing:
            raise IndexOutOfRange(
                f"the index holds no {listing(missing)}. Expected ids among {listing(self.names.tolist(), 3)}; correct them."
            )
        found = [row for item in ids.tolist() for row in places[item]]
        return [row for row in found if not bool(self.gone[row])]

    def require_free(self, ids: np.ndarray) -> None:
        """Refuse names that living rows have.

        Raises:
            InputError: a name that is taken.
        """
        taken = set(self.names[~self.gone.numpy()].tolist()) & set(ids.tolist())
        if taken:
            raise InputError(
                f"append found {listing(sorted(taken, key=str))} among the names of rows that are there. Expected new names; pass ids=, or delete those rows first."
            )

    def require_whole(self) -> None:
        """Refuse to answer from part of the training set.

        Raises:
            CorruptStore: rows that were planned are not committed.
        """
        shards = self.store.shards("rows")
        ends, starts = [0, *(s.stop for s in shards)], [*(s.start for s in shards), self.trained]
        holes = [f"{a:,} to {b - 1:,}" for a, b in zip(ends, starts, strict=True) if a < b]
        if holes:
            raise CorruptStore(
                f"{self.store.folder} lacks rows {listing(holes)} of {self.trained:,}. Expected every row: the build was interrupted; call build() again with the same arguments, which computes only these."
            )


def encoded_names(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Names as an array: whole numbers as they are, anything else as JSON text."""
    if ids.dtype.kind in "iu":
        return {"names": ids.astype(np.int64)}
    items = [item if isinstance(item, int | float | str) else str(item) for item in ids.tolist()]
    return {"text": np.frombuffer(json.dumps(items).encode(), np.uint8)}


def decoded_names(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Names as they were written."""
    if "names" in arrays:
        return arrays["names"]
    items = json.loads(arrays["text"].tobytes())
    found = np.asarray(items)
    if len({type(item) for item in items}) > 1:
        found = np.empty(len(items), dtype=object)
        found[:] = items
    return found


def beside(store: Store, kind: str) -> dict[str, np.ndarray] | None:
    """The arrays of a file the manifest names; None where it names none of this kind."""
    for record in store.manifest["files"]:
        if record["kind"] == kind:
            return store.read(read_record(store.folder, record))
    return None
