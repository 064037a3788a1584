"""What an index holds, in numbers and in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from upweight.index.accuracy import Accuracy
from upweight.index.contents import Contents
from upweight.store import Store


@dataclass(frozen=True)
class IndexInfo:
    """What an index holds.

    Attributes:
        rows: training points whose gradients are there, of ``planned``.
        appended, deleted: rows added since, and taken out.
        numbers, dtype, kind: what is kept of each gradient of ``parameters`` numbers.
        bytes, row_bytes: of all files of rows, and of one row's numbers with its scale.
        accuracy: compressed scores against uncompressed ones, measured before the build.
        made_of: fingerprints of the model, the data, the settings and the code.
    """

    path: str
    rows: int
    planned: int
    appended: int
    deleted: int
    parameters: int
    numbers: int
    dtype: str
    kind: str
    bytes: int
    row_bytes: float
    accuracy: Accuracy
    made_of: dict[str, Any]

    @classmethod
    def of(cls, store: Store, contents: Contents, committed: int) -> IndexInfo:
        """Read off a store."""
        manifest = store.manifest
        held = sum(shard.bytes for shard in contents.shards)
        rows = sum(shard.stop - shard.start for shard in contents.shards)
        return cls(
            path=str(store.folder),
            rows=committed,
            planned=manifest["count"],
            appended=contents.count - contents.trained,
            deleted=int(contents.gone.sum()),
            parameters=manifest["parameters"],
            numbers=manifest["numbers"],
            dtype=manifest["dtype"],
            kind=manifest["basis"]["kind"],
            bytes=held,
            row_bytes=held / rows if rows else 0.0,
            accuracy=Accuracy.read(manifest["accuracy"]),
            made_of=manifest["made_of"],
        )

    @property
    def complete(self) -> bool:
        """True when every training point is there."""
        return self.rows == self.planned

    @property
    def compression(self) -> str:
        """What is kept, in words."""
        names = {
            "eigenbasis": "in K-FAC's eigenbasis",
            "logra": "of a two-sided random projection",
            "sketch": "of a signed sketch of all",
            "none": "of the gradient",
        }
        return f"{self.numbers:,} of {self.parameters:,} numbers {names[self.kind]} in {self.dtype}"

    def __str__(self) -> str:
        state = "" if self.complete else f" of {self.planned:,}: unfinished, call build() again"
        more = "".join(
            f", {count:,} {word}" for count, word in ((self.appended, "appended"), (self.deleted, "deleted")) if count
        )
        return f"Index of {self.rows:,} training points{state}{more} in {self.path}; {self.compression}, {self.row_bytes:,.0f} bytes each; measured {self.accuracy}."
