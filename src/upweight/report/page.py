"""One self-contained HTML page: ranked suspects with thumbnails, and predicted against refitted changes."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from upweight.errors import MissingExtraError, ShapeError

if TYPE_CHECKING:
    import pandas as pd

    from upweight.evaluate.calibration import Calibration
    from upweight.questions.trust import Trust

SHOWN = 48
"""Suspects on the page: what a person looks through in a minute."""


def render_page(
    suspects: pd.DataFrame,
    calibration: Calibration,
    trust: Trust,
    sentence: str,
    images: Mapping[Any, np.ndarray] | None = None,
    truth: set[Any] | None = None,
) -> str:
    """The page as text. Data reach it only through an escaping template, and it loads nothing.

    Args:
        suspects: the frame of ``Study.mislabeled``.
        images: a grey image (height, width) for every train id.
        truth: train ids known to be mislabelled, where they were planted.
    """
    from jinja2 import Environment, select_autoescape

    rows = suspects.head(SHOWN).to_dict("records")
    for row in rows:
        row["image"] = None if images is None else thumbnail(images[row["train"]])
        row["planted"] = None if truth is None else row["train"] in truth
    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("upweight.report").joinpath("page.html").read_text("utf-8"))
    return template.render(
        rows=rows,
        classified="label" in suspects,
        found=None if truth is None else sum(row["planted"] for row in rows),
        planted=None if truth is None else len(truth),
        calibration=calibration,
        scatter=scatter(calibration),
        trust=str(trust),
        concerns=trust.concerns,
        sentence=sentence,
    )


def write_report(
    study: Any, path: str | os.PathLike[str], *, query: Any, images: Any = None, truth: Any = None, refits: int = 30
) -> str:
    """Ask a study for its suspects and its calibration, and write the page."""
    if images is not None and len(images) != study.objective.count:
        raise ShapeError(
            f"the report found {len(images)} images for {study.objective.count} training points. Expected one each, (n, height, width)."
        )
    sentence = repr(study)
    pictures = (
        None if images is None else dict(zip(study.objective.examples.ids.tolist(), np.asarray(images), strict=True))
    )
    calibration = study.check(query, refits=refits)
    contents = render_page(
        study.mislabeled(),
        calibration,
        study.trust(),
        sentence,
        pictures,
        None if truth is None else set(truth),
    )
    Path(path).write_text(contents, "utf-8")
    return str(path)


def thumbnail(image: np.ndarray) -> str:
    """A grey image, stretched to its own range, as a PNG data address."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "thumbnails need pillow, which is not installed. Install it with: pip install 'upweight[images]'"
        ) from error
    low, high = float(image.min()), float(image.max())
    grey = 255 - np.uint8(255 * (image - low) / max(high - low, 1e-12))
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def scatter(calibration: Calibration) -> str:
    """Predicted against refitted as a PNG data address."""
    axes = calibration.plot()
    figure = axes.figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, bbox_inches="tight")  # pyright: ignore
    from matplotlib import pyplot

    pyplot.close(figure)  # pyright: ignore
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
