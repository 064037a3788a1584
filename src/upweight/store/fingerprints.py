"""Fingerprints: SHA-256 of arrays, texts and bytes, and which named ones differ.

All of the library's fingerprints are made here; other rooms say what goes into theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from upweight.errors import StaleStore, listing


class Digest:
    """SHA-256 of the bytes that are added, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *pieces: bytes) -> None:
        """More of them."""
        for piece in pieces:
            self._hash.update(piece)

    @property
    def hex(self) -> str:
        """64 hexadecimal digits, of what was added so far."""
        return self._hash.hexdigest()


def digest(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """Of named arrays, one after the other: names, types, shapes and bytes."""
    found = Digest()
    for name, array in arrays:
        found.add(f"{name} {array.dtype.str} {array.shape} ".encode())
        if array.dtype.hasobject:
            found.add(json.dumps([str(item) for item in array.ravel().tolist()]).encode())
        else:
            found.add(np.ascontiguousarray(array).tobytes())
    return found.hex


def digest_bytes(pieces: Iterable[bytes]) -> str:
    """Of pieces of bytes, one after the other."""
    found = Digest()
    found.add(*pieces)
    return found.hex


def digest_text(texts: Iterable[str]) -> str:
    """Of texts, in order."""
    return digest_bytes(["\0".join(texts).encode()])


def digest_folder(folder: Path, pattern: str = "*.py") -> str:
    """Of all files of a kind below a folder."""
    files = sorted(folder.rglob(pattern))
    return digest_text(part for path in files for part in (str(path.relative_to(folder)), path.read_text("utf-8")))


def require_same(found: Mapping[str, Any], written: Mapping[str, Any], where: Path, names: Iterable[str]) -> None:
    """Refuse a store whose fingerprints are not those of what it is asked with.

    Raises:
        StaleStore: naming what differs.
    """
    different = [name for name in names if found.get(name) != written.get(name)]
    if different:
        shown = [f"{name} is {_short(found.get(name))} and was {_short(written.get(name))}" for name in different]
        raise StaleStore(
            f"{where} was made of another {listing(dict.fromkeys(name.partition('.')[0] for name in different))}: {'; '.join(shown)}. Expected what it was built with; open it with that study, or build another in a new folder."
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text[:12]}…" if len(text) == 64 else repr(value)
