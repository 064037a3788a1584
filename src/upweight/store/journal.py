"""An append-only journal: one checked line for everything that was committed, each tied to the line before it.

    3f1c09aa {"bytes": 8192, "crc32": …, "file": "rows-…", "kind": "rows", "prev": "…", "seq": 4, …}

The first eight digits are the CRC-32 of the rest. ``prev`` is that of the line before, of the manifest for the
first line, so that lines cannot be lost, swapped or taken from another store unnoticed. A last line without its
end was being written when the writer died: it does not count.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upweight.errors import CorruptStore
from upweight.store.files import append_line, in_words

Record = dict[str, Any]

MOST_BYTES = 2**28
"""Of a journal: a million shards."""


@dataclass
class Journal:
    """The lines of a journal, as far as they count.

    Attributes:
        root: what the first line is tied to.
        records: what was committed, oldest first.
        end: bytes that count; what follows is a torn line.
        last: CRC of the last line that counts.
    """

    path: Path
    root: str
    records: list[Record] = field(default_factory=list)
    end: int = 0
    last: str = ""

    @classmethod
    def read(cls, path: Path, root: str) -> Journal:
        """Read what counts; a journal that was never begun is empty.

        Raises:
            CorruptStore: a line that was changed, lost, or belongs to another store; it names the line.
        """
        journal = cls(path, root, last=root)
        if not path.exists():
            return journal
        with in_words(path):
            contents = path.read_bytes()
        lines = contents.split(b"\n")
        for number, line in enumerate(lines[:-1], 1):  # after the last newline comes nothing, or a torn line
            journal._take(number, line)
            journal.end += len(line) + 1
        return journal

    def append(self, record: Record) -> None:
        """Commit a record: when this returns it will survive a power cut."""
        whole = record | {"seq": len(self.records), "prev": self.last}
        body = json.dumps(whole, sort_keys=True).encode()
        check = f"{zlib.crc32(body):08x}"
        self.end = append_line(self.path, self.end, check.encode() + b" " + body + b"\n")
        self.records.append(whole)
        self.last = check

    def _take(self, number: int, line: bytes) -> None:
        check, _, body = line.partition(b" ")
        if f"{zlib.crc32(body):08x}".encode() != check:
            raise self._wrong(number, f"its checksum is {zlib.crc32(body):08x}, and it says {check[:16]!r}")
        record = json.loads(body)
        if record["prev"] != self.last or record["seq"] != len(self.records):
            raise self._wrong(
                number,
                f"it is entry {record['seq']} after {record['prev']}, and {len(self.records)} after {self.last} comes here",
            )
        self.records.append(record)
        self.last = check.decode()

    def _wrong(self, number: int, why: str) -> CorruptStore:
        return CorruptStore(
            f"line {number} of {self.path} is damaged: {why}. Expected the lines as they were written; put the file back from a copy, or delete the folder and build again."
        )
