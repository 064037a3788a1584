"""A file written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from upweight.errors import StoreError


def write_whole(path: str | os.PathLike[str], contents: bytes) -> Path:
    """Write under another name, force it to disk, rename, force the folder; a crash leaves the old file or none.

    Raises:
        StoreError: the folder cannot be written to, or is full.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"could not write {target}: {error.strerror}. Expected a writable folder with {len(contents)} bytes free."
        ) from error
    return target


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
