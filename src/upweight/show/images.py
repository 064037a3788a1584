"""Pictures: arrays, files or pillow images, drawn small and encoded anew."""

from __future__ import annotations

import base64
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from upweight.errors import MissingExtraError
from upweight.show.shown import Look, Shown

LONGEST = 96
"""Pixels of a thumbnail's longer side; smaller pictures stay as they are."""

CRISP = 40
"""Pictures up to this many pixels are kept lossless, since the page enlarges them."""

QUALITY = 82
"""WebP quality: a photograph of 96 pixels takes about 3 kB."""

LARGEST = 40_000_000
"""Pixels above which a picture file is not opened: a small file may unpack to gigabytes."""


@dataclass(frozen=True)
class Images(Shown):
    """Pictures: (n, h, w), (n, h, w, 1 | 3 | 4) or (n, 1 | 3, h, w) arrays, or a list of paths or pillow images.

    Bytes and whole numbers are 0 to 255, fractions 0 to 1; arrays with other ranges are stretched picture by picture.
    A picture that cannot be read becomes a grey place that says why.

    Raises:
        MissingExtraError: pillow is not installed.
    """

    kind = "image"

    def look(self, thing: Any) -> Look:
        image = _pillow()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", image.DecompressionBombWarning)
                return {"src": encoded(opened(thing))}
        except Exception as error:  # a damaged file may fail anywhere in its decoder
            return {"broken": reason(error, thing)}


def reason(error: Exception, thing: Any) -> str:
    """Why a picture cannot be shown, with the name of its file but not the folders above it."""
    words = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(thing, str | os.PathLike):
        words = f"{Path(thing).name}: {words.replace(str(thing), Path(thing).name)}"
    return f"{type(error).__name__}, {words}"[:160]


def opened(thing: Any) -> Any:
    """A pillow image of a path, an array or an image, in grey or colour."""
    image = _pillow()
    if isinstance(thing, str | os.PathLike):
        thing = image.open(thing)
    if not isinstance(thing, image.Image):
        return image.fromarray(pixels(np.asarray(thing)))
    if thing.width * thing.height > LARGEST:
        raise ValueError(f"{thing.width} × {thing.height} pixels, more than {LARGEST:,}")
    thing.draft("RGB", (2 * LONGEST, 2 * LONGEST))
    thing.load()
    return thing if thing.mode in ("L", "RGB", "RGBA") else thing.convert("RGB")


def pixels(values: np.ndarray) -> np.ndarray:
    """Bytes (h, w) or (h, w, 3 | 4) of one picture."""
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3, 4):
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        raise ValueError(f"shape {values.shape} is no picture")
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    values = values.astype(float)
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinity in the picture")
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    top = 1.0 if high <= 1.0 and low >= 0.0 else 255.0
    if low < 0.0 or high > 255.0 or (top == 255.0 and not (values % 1 == 0).all()):
        values, top = values - low, max(high - low, 1e-12)
    return np.round(values * (255.0 / top)).astype(np.uint8)


def encoded(picture: Any) -> str:
    """A small picture as a data address: PNG where every pixel counts, WebP else."""
    buffer = io.BytesIO()
    if max(picture.size) <= CRISP:
        picture.save(buffer, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    picture = picture.copy()
    picture.thumbnail((LONGEST, LONGEST))
    picture.save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "thumbnails need pillow, which is not installed. Install it with: pip install 'upweight[images]'"
        ) from error
    return Image
