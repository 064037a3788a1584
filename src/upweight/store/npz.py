"""Plain arrays in one npz file, which NumPy alone can read: for truths that are scored elsewhere."""

from __future__ import annotations

import os
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np

from upweight.errors import StoreError
from upweight.store.files import write_whole


def write_npz(path: str | os.PathLike[str], arrays: dict[str, np.ndarray]) -> Path:
    """Write named arrays of numbers and texts; never a pickle."""
    contents = BytesIO()
    np.savez_compressed(contents, allow_pickle=False, **arrays)
    return write_whole(path, contents.getvalue())


def read_npz(path: str | os.PathLike[str], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read a file that must hold these names.

    Raises:
        StoreError: the file is missing, damaged, or holds something else.
    """
    target = Path(path)
    try:
        with np.load(target, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise StoreError(f"found no file {target}. Expected one written by save(); check the path.") from error
    except (
        OSError,
        ValueError,
        AttributeError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise StoreError(
            f"{target} is damaged or not an npz file of plain arrays ({error}). Expected one written by save(); write it again."
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise StoreError(
            f"{target} holds {', '.join(found) or 'nothing'}, without {', '.join(missing)}. Expected one written by save(); check the path."
        )
    return found
