"""The manifest: what a store was made of, one checked JSON file, written once and last."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from upweight.errors import CorruptStore, StoreError, StoreVersion
from upweight.store.files import read_whole, write_whole

Manifest = dict[str, Any]

NAME = "manifest.json"
MOST_BYTES = 2**24
"""Of a manifest: names and settings, no data."""


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write it with its own checksum; from then on the store exists."""
    whole = manifest | {"crc32": checksum(manifest)}
    write_whole(folder / NAME, (json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())
    return whole


def read_manifest(folder: Path, kind: str, version: int) -> Manifest:
    """Read the manifest of a store of one kind, of any version up to this one.

    Raises:
        StoreError: there is none, or it is of another kind of store.
        StoreVersion: it is of a later version.
        CorruptStore: it is not what was written.
    """
    path = folder / NAME
    if not path.is_file():
        raise StoreError(
            f"found no {NAME} in {folder}. Expected a folder this library has built; check the path, or call build() again if it was interrupted."
        )
    try:
        found = json.loads(read_whole(path, MOST_BYTES))
        assert isinstance(found, dict)
    except (ValueError, RecursionError, AssertionError) as error:
        raise _damaged(path, f"it is not JSON of this library ({error})") from None
    if found.get("format") != kind:
        raise StoreError(
            f"{path} has format {found.get('format')!r}. Expected {kind!r}; it was not written by this function."
        )
    if not isinstance(found.get("version"), int) or found["version"] > version:
        raise StoreVersion(
            f"{path} has version {found.get('version')!r} of the format. Expected at most {version}; install a newer upweight to read it."
        )
    said = found.pop("crc32", None)
    if said != checksum(found):
        raise _damaged(path, f"its checksum is {checksum(found)}, and it says {said!r}")
    return found | {"crc32": said}


def checksum(manifest: Manifest) -> str:
    """CRC-32 of the manifest without its checksum, spelled one way."""
    return f"{zlib.crc32(json.dumps(manifest, sort_keys=True).encode()):08x}"


def _damaged(path: Path, why: str) -> CorruptStore:
    return CorruptStore(
        f"{path} is damaged: {why}. Expected the file as it was written; put it back from a copy, or delete the folder and build again."
    )
