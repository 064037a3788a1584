"""Fingerprints: SHA-256 of arrays, and which named ones differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from upweight.errors import StaleStore, listing


def digest(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """Of named arrays, one after the other: names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name, array in arrays:
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        if array.dtype.hasobject:
            found.update(json.dumps([str(item) for item in array.ravel().tolist()]).encode())
        else:
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def digest_text(texts: Iterable[str]) -> str:
    """Of texts, in order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


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
