"""Shards: a stretch of rows in one safetensors file, believed only after its size and its CRC-32 were found as journalled."""

from __future__ import annotations

import json
import mmap
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from upweight.errors import CorruptStore
from upweight.store.files import in_words

NAMES = re.compile(r"[a-z]+-\d{12}-\d{12}-[0-9a-f]{8}\.safetensors")
"""What a shard may be called: nothing else in a journal is ever opened."""

TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
}
PIECE = 2**22
"""Bytes a checksum reads at a time."""


@dataclass(frozen=True)
class Shard:
    """What the journal says of one file.

    Attributes:
        kind: what its rows are.
        start, stop: which rows it holds.
        extra: what else was journalled with it.
    """

    folder: Path
    kind: str
    start: int
    stop: int
    file: str
    bytes: int
    crc32: str
    extra: dict[str, Any]

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / self.file

    @property
    def rows(self) -> str:
        """Which rows it holds, in words."""
        return f"{self.kind} {self.start:,} to {self.stop - 1:,}"

    def record(self) -> dict[str, Any]:
        """As it is journalled."""
        said = {name: getattr(self, name) for name in ("kind", "start", "stop", "file", "bytes", "crc32")}
        return self.extra | said

    @property
    def missing(self) -> bool:
        """True where its file is not there at all."""
        return not self.path.exists()

    def check(self) -> None:
        """Compare size and CRC-32 with the journal.

        Raises:
            CorruptStore: the file is missing or differs.
        """
        with self._open() as contents:
            found = crc(contents)
        if found != self.crc32:
            raise self._damaged(f"its checksum is {found}, and {self.crc32} was written")

    @contextmanager
    def mapped(self) -> Iterator[dict[str, np.ndarray]]:
        """Its arrays as read-only views of the file, valid inside the ``with``; its size is checked, its CRC is not.

        Raises:
            CorruptStore: the file is missing, or its size differs.
        """
        with self._open() as contents:
            yield views(contents)

    def read(self) -> dict[str, np.ndarray]:
        """Its arrays, copied."""
        with self.mapped() as arrays:
            return {name: np.array(array) for name, array in arrays.items()}

    @contextmanager
    def _open(self) -> Iterator[memoryview]:
        with in_words(self.path):
            if self.missing:
                raise self._damaged("it is not there")
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                size = os.fstat(handle).st_size
                if size != self.bytes:
                    raise self._damaged(f"it has {size:,} bytes, and {self.bytes:,} were written")
                held = mmap.mmap(handle, size, access=mmap.ACCESS_COPY)  # private to this process, never written to
            finally:
                os.close(handle)
        yield memoryview(held)  # unmapped when the last view of it goes

    def _damaged(self, why: str) -> CorruptStore:
        again = "delete it and call build() again, which computes only these rows"
        if self.kind != "rows":
            again = "delete the whole folder and build it again: everything else rests on this file"
        return CorruptStore(
            f"{self.path} ({self.rows}) is damaged: {why}. Expected the file as it was written; put it back from a copy, or {again}."
        )


def composed(
    folder: Path, kind: str, start: int, stop: int, arrays: dict[str, np.ndarray], extra: dict[str, Any] | None = None
) -> tuple[Shard, bytes]:
    """A shard and the bytes of its file, nothing written yet; it counts once it is written and journalled."""
    contents = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    check = crc(memoryview(contents))
    name = f"{kind}-{start:012d}-{stop:012d}-{check}.safetensors"
    return Shard(folder, kind, start, stop, name, len(contents), check, extra or {}), contents


def read_record(folder: Path, record: dict[str, Any]) -> Shard:
    """The shard a journal line speaks of.

    Raises:
        CorruptStore: a name that no shard has.
    """
    own = ("kind", "start", "stop", "file", "bytes", "crc32")
    if not NAMES.fullmatch(str(record["file"])):
        raise CorruptStore(
            f"the journal of {folder} names the file {record['file']!r}. Expected a shard's name; it was not written by this library."
        )
    extra = {name: value for name, value in record.items() if name not in (*own, "seq", "prev")}
    return Shard(folder, extra=extra, **{name: record[name] for name in own})


def crc(contents: memoryview) -> str:
    """CRC-32 as eight digits."""
    found = 0
    for start in range(0, len(contents), PIECE):
        found = zlib.crc32(contents[start : start + PIECE], found)
    return f"{found:08x}"


def views(contents: memoryview) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file as views of its bytes, which the caller has checked."""
    length = int.from_bytes(contents[:8], "little")
    header = json.loads(bytes(contents[8 : 8 + length]))
    header.pop("__metadata__", None)
    found = {}
    for name, said in header.items():
        start, stop = (8 + length + offset for offset in said["data_offsets"])
        found[name] = np.frombuffer(contents[start:stop], TYPES[said["dtype"]]).reshape(said["shape"])
    return found
