"""Arrays and their labels in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from upweight.errors import StoreError
from upweight.store.files import write_whole

FORMAT = "upweight.arrays.2"


def write_arrays(path: str | os.PathLike[str], arrays: dict[str, np.ndarray], labels: dict[str, Any]) -> Path:
    """Write named arrays and JSON labels; a crash leaves the old file or none."""
    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    said = json.dumps(labels)
    metadata = {"format": FORMAT, "labels": said, "crc32": _checksum(tensors, said)}
    return write_whole(path, save(tensors, metadata))


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what ``write_arrays`` wrote.

    Raises:
        StoreError: the file is missing, damaged, or was not written by this library.
    """
    target = Path(path)
    if not target.is_file():
        raise StoreError(f"found no file {target}. Expected one written by save(); check the path.")
    try:
        with safe_open(target, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - the handle is not a dict
            }
    except (SafetensorError, OSError) as error:
        raise StoreError(
            f"{target} is damaged or not a safetensors file ({error}). Expected one written by save(); write it again."
        ) from error
    except (KeyError, TypeError, ValueError) as error:  # a header that still reads, of another shape or type
        raise StoreError(f"{target} is damaged ({error}). Expected what save() wrote; write it again.") from error
    if metadata.get("format") != FORMAT:
        raise StoreError(
            f"{target} has format {metadata.get('format')!r}. Expected {FORMAT!r}; it was not written by this library."
        )
    if metadata.get("crc32") != _checksum(arrays, metadata.get("labels", "")):
        raise StoreError(f"{target} is damaged: its checksum differs. Expected what save() wrote; write it again.")
    return arrays, json.loads(metadata["labels"])


def _checksum(arrays: dict[str, np.ndarray], labels: str) -> str:
    """Of names, shapes, types, numbers and labels."""
    found = zlib.crc32(labels.encode("utf-8"))
    for name in sorted(arrays):
        array = arrays[name]
        found = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), found)
        found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
    return f"{found:08x}"
