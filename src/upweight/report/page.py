"""One self-contained HTML page: ranked suspects with thumbnails, and predicted against refitted changes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from upweight.errors import MissingExtraError, ShapeError

if TYPE_CHECKING:
    import pandas as pd

    from upweight.evaluate.calibration import Calibration
    from upweight.questions.trust import Trust

SHOWN = 48
"""Suspects on the page: what a person looks through in a minute."""


@dataclass(frozen=True)
class Page:
    """What a report shows.

    Attributes:
        suspects: the frame of ``Study.mislabeled``.
        calibration: predicted against refitted changes.
        trust: what the study measured about itself.
        sentence: the study in one sentence.
        images: a grey image (height, width) for every train id.
        truth: train ids known to be mislabelled, where they were planted.
    """

    suspects: pd.DataFrame
    calibration: Calibration
    trust: Trust
    sentence: str
    images: Mapping[Any, np.ndarray] | None = None
    truth: set[Any] | None = None

    @property
    def concerns(self) -> list[str]:
        """What the study found against itself, and what its own refits say."""
        return [*self.trust.concerns, *self.calibration.concerns]

    def render(self) -> str:
        """The page as text. Data reach it only through an escaping template, and it loads nothing."""
        from jinja2 import Environment, select_autoescape

        rows = self.suspects.head(SHOWN).to_dict("records")
        for row in rows:
            row["image"] = None if self.images is None else thumbnail(self.images[row["train"]])
            row["planted"] = None if self.truth is None else row["train"] in self.truth
        environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string(resources.files("upweight.report").joinpath("page.html").read_text("utf-8"))
        return template.render(
            page=self,
            rows=rows,
            classified="label" in self.suspects,
            found=sum(bool(row["planted"]) for row in rows),
            scatter=scatter(self.calibration),
        )


def images_by_id(images: Any, ids: np.ndarray) -> dict[Any, np.ndarray] | None:
    """A picture for every training point.

    Raises:
        ShapeError: not one image a point.
    """
    if images is None:
        return None
    if len(images) != len(ids):
        raise ShapeError(
            f"the report found {len(images)} images for {len(ids)} training points. Expected one each, (n, height, width); pass all of them."
        )
    return dict(zip(ids.tolist(), np.asarray(images), strict=True))


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
