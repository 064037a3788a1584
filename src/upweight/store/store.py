"""A store: a manifest, a journal and shards in one folder; readers see what was committed, one writer at a time adds to it.

    manifest.json     what it was made of; written once, last of what begins a store
    journal.jsonl     a line a committed shard
    <kind>-<start>-<stop>-<crc32>.safetensors
    LOCK              held by the writer, let go by the kernel when it dies

A row outside a journalled shard does not exist: it never reads as zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from upweight.errors import CorruptStore, StoreError, StoreLocked
from upweight.store.files import forget_partial, in_words, make_folder, write_whole
from upweight.store.journal import Journal
from upweight.store.manifest import NAME, Manifest, read_manifest, write_manifest
from upweight.store.shards import NAMES, Shard, composed, read_record

JOURNAL, LOCK = "journal.jsonl", "LOCK"


@dataclass
class Store:
    """What a folder holds, as far as it was committed when it was opened.

    Attributes:
        checked: shards whose CRC-32 was compared, with the file's identity at that time.
    """

    folder: Path
    manifest: Manifest
    journal: Journal
    checked: dict[str, tuple[int, int, int]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path, kind: str, version: int) -> Store:
        """Open a store for reading; ``locked`` makes it writable.

        Raises:
            StoreError: there is none, or it is damaged, foreign, or of a later version.
        """
        with in_words(folder):
            manifest = read_manifest(folder, kind, version)
            return cls(folder, manifest, Journal.read(folder / JOURNAL, manifest["crc32"]))

    @classmethod
    def begin(cls, folder: Path, manifest: Manifest) -> Store:
        """Write the manifest of a new store; for the one who holds the lock of its folder."""
        whole = write_manifest(folder, manifest)
        return cls(folder, whole, Journal.read(folder / JOURNAL, whole["crc32"]))

    def shards(self, kind: str) -> list[Shard]:
        """The committed shards of one kind, by their rows."""
        found = [read_record(self.folder, record) for record in self.journal.records if record["kind"] == kind]
        return sorted(found, key=lambda shard: shard.start)

    def commit(
        self, kind: str, start: int, stop: int, arrays: dict[str, np.ndarray], extra: dict[str, Any] | None = None
    ) -> Shard:
        """Write a shard and journal it; for the one who holds the lock. Rows committed before must come out the same.

        Raises:
            CorruptStore: these rows were committed with other bytes.
        """
        shard, contents = composed(self.folder, kind, start, stop, arrays, extra)
        before = [one for one in self.shards(kind) if (one.start, one.stop, one.extra) == (start, stop, shard.extra)]
        if before and before[0].crc32 != shard.crc32:
            raise CorruptStore(
                f"{shard.rows} came out as {shard.crc32}, and as {before[0].crc32} when they were written to {self.folder}. Expected the same bytes from the same code on the same machine; delete the folder and build again."
            )
        write_whole(shard.path, contents)
        if not before:
            self.journal.append(shard.record())
        return shard

    def note(self, kind: str, said: dict[str, Any]) -> None:
        """Journal something that has no file; for the one who holds the lock."""
        self.journal.append(said | {"kind": kind})

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """What was noted of one kind, oldest first."""
        return [record for record in self.journal.records if record["kind"] == kind]

    @contextmanager
    def mapped(self, shard: Shard) -> Iterator[dict[str, np.ndarray]]:
        """A shard's arrays as views of its file, its CRC compared when it is first touched."""
        self._check_once(shard)
        with shard.mapped() as arrays:
            yield arrays

    def read(self, shard: Shard) -> dict[str, np.ndarray]:
        """A shard's arrays, copied, its CRC compared when it is first touched."""
        self._check_once(shard)
        return shard.read()

    def verify(self) -> list[Shard]:
        """Compare every committed shard with its CRC.

        Returns:
            The shards, all sound.

        Raises:
            CorruptStore: naming every file that is missing or differs.
        """
        records = [record for record in self.journal.records if "file" in record]
        found, wrong = [read_record(self.folder, record) for record in records], []
        for shard in found:
            try:
                shard.check()
            except CorruptStore as error:
                wrong.append(str(error))
        if wrong:
            raise CorruptStore("\n".join(wrong))
        return found

    def _check_once(self, shard: Shard) -> None:
        with in_words(shard.path):
            if shard.missing:
                shard.check()
            found = shard.path.stat()
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self.checked.get(shard.file) != identity:
            shard.check()
            self.checked[shard.file] = identity


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, made where there is none, and clear away what a writer that died left unfinished.

    Raises:
        StoreLocked: another writer holds it.
        StoreError: the folder holds other things.
    """
    make_folder(folder)
    _require_own(folder)
    with in_words(folder / LOCK):
        try:
            held = FileLock(folder / LOCK).acquire(timeout=0)
        except Timeout:
            raise StoreLocked(
                f"another process is writing to {folder}. Expected to be the only writer; wait for it, or stop it and call again."
            ) from None
    with held:
        forget_partial(folder)
        yield


def _require_own(folder: Path) -> None:
    """A folder without a manifest must hold nothing but what an interrupted start leaves."""
    if (folder / NAME).exists():
        return
    with in_words(folder):
        names = [path.name for path in folder.iterdir()]
    others = [name for name in names if name != LOCK and not name.startswith(".") and not NAMES.fullmatch(name)]
    if others:
        raise StoreError(
            f"{folder} has no {NAME} and holds {sorted(others)[0]!r}. Expected a new or empty folder; name another one."
        )
