"""Files that are there whole or not at all: temporary name, write, fsync, rename, fsync of the folder.

Plain ``write`` calls, never a writable map: on a full disk a map ends the process, a write says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from upweight.errors import StoreDenied, StoreError, StoreFull

PARTIAL = ".partial"
"""How the name of a file that is not yet whole ends; such a file never counts."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def in_words(path: Path, needed: int = 0) -> Iterator[None]:
    """Say what the operating system refused as an error of the store.

    Raises:
        StoreFull: no room, or a file size limit.
        StoreDenied: no permission, or a read-only file system.
        StoreError: anything else the operating system refuses.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        if error.errno in FULL:
            raise StoreFull(
                f"could not write {path}: {why}; {_free(path)}. Expected room for {needed:,} bytes; make some and call again, what is already written is kept."
            ) from error
        if error.errno in DENIED:
            raise StoreDenied(
                f"could not {'write' if needed else 'use'} {path}: {why}. Expected a folder and files this user may read and write; give the permission back and call again."
            ) from error
        raise StoreError(
            f"could not {'write' if needed else 'use'} {path}: {why}. Expected a folder on a working disk; correct the path, or call again: what is already written is kept."
        ) from error


def write_whole(path: str | os.PathLike[str], contents: bytes) -> Path:
    """Put a file in place so that a crash at any moment leaves the old one, none, or the new one; its path.

    Raises:
        StoreError: the operating system refuses.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with in_words(path, len(contents)):
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                _write_all(handle, contents)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(partial, path)
        except OSError:
            with suppress(OSError):
                os.unlink(partial)
            raise
        sync_folder(path.parent)
    return path


def append_line(path: Path, at: int, line: bytes) -> int:
    """Write a line at the end of what counts in a file, ``at``, and fsync; what followed it is cut off first.

    Returns:
        Where the file ends now.
    """
    with in_words(path, len(line)):
        created = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.ftruncate(handle, at)
            os.lseek(handle, at, os.SEEK_SET)
            try:
                _write_all(handle, line)
                os.fsync(handle)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, at)
                raise
        finally:
            os.close(handle)
        if created:
            sync_folder(path.parent)
    return at + len(line)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """A folder, with those above it."""
    with in_words(folder):
        if not folder.is_dir():
            os.makedirs(folder, exist_ok=True)
            sync_folder(folder.parent)


def read_whole(path: Path, most: int) -> bytes:
    """A small file's contents.

    Raises:
        StoreError: it is missing, or larger than such a file ever is.
    """
    if not path.is_file():
        raise StoreError(f"found no file {path}. Expected one written by this library; check the path.")
    with in_words(path):
        size = path.stat().st_size
        if size > most:
            raise StoreError(
                f"{path} has {size:,} bytes. Expected at most {most:,}; it was not written by this library."
            )
        return path.read_bytes()


def forget_partial(folder: Path) -> None:
    """Remove what an interrupted writer left unfinished; for the one who holds the lock."""
    for path in folder.glob(f".*{PARTIAL}"):
        with suppress(OSError):
            os.unlink(path)


def _write_all(handle: int, contents: bytes) -> None:
    view = memoryview(contents)
    while view:
        view = view[os.write(handle, view) :]


def _free(path: Path) -> str:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return "free space unknown"
    return f"{found.f_bavail * found.f_frsize:,} bytes are free"
