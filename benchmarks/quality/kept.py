"""Scores on disk, a file for every method and model, with the processor seconds they cost. NumPy alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


class Kept:
    """Scores of one setting: what is there is not computed again.

    Seconds are the process's own, of all its threads: they do not count what else the machine does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "scores"
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, method: str, models: str) -> Path:
        """Where scores of a method are: '0' is the first model, '0-2' the first three at once."""
        return self.folder / f"{method}.{models}.npy"

    def put(self, method: str, models: str, compute: Callable[[], np.ndarray]) -> None:
        """Compute scores (m, n) and keep them; a method that fails keeps its error."""
        path = self.path(method, models)
        if path.exists() or path.with_suffix(".error").exists():
            return
        started = time.process_time()
        try:
            scores = np.asarray(compute(), dtype=np.float64)
            if not np.isfinite(scores).all():
                raise ValueError(f"{(~np.isfinite(scores)).mean():.0%} of its scores are not finite")
        except Exception as error:
            path.with_suffix(".error").write_text(f"{type(error).__name__}: {str(error).splitlines()[0]}", "utf-8")
            print(f"{path.name}: {error!r}", flush=True)
            return
        self.add(method, models, scores, time.process_time() - started)

    def add(self, method: str, models: str, scores: np.ndarray, seconds: float) -> None:
        """Keep scores computed elsewhere."""
        path = self.path(method, models)
        np.save(path, scores.astype(np.float32))
        path.with_suffix(".json").write_text(json.dumps({"seconds": seconds}), "utf-8")
        print(f"{path.name}: {seconds:.1f} s", flush=True)

    def get(self, method: str, count: int, units: np.ndarray | None = None) -> tuple[np.ndarray, float] | None:
        """Scores of the first ``count`` models, as the method combines them or else their mean, and all their seconds.

        Args:
            units: (models, m), what a query's scores are divided by for each model; none by default.
        """
        together = self.path(method, f"0-{count - 1}")
        paths = [together] if together.exists() else [self.path(method, str(k)) for k in range(count)]
        if not all(path.exists() for path in paths):
            return None
        each = [np.load(path).astype(np.float64) for path in paths]
        if units is not None:
            each = [one / unit[:, None] for one, unit in zip(each, units, strict=False)]
        scores = np.mean(each, 0)
        return scores, sum(json.loads(path.with_suffix(".json").read_text("utf-8"))["seconds"] for path in paths)

    def error(self, method: str) -> str | None:
        """What a method said when it failed on the first model."""
        path = self.path(method, "0").with_suffix(".error")
        return path.read_text("utf-8") if path.exists() else None
