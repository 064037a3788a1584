"""One row of a benchmark, inside its own process: phases timed, scores kept, everything printed as one JSON line.

Imports nothing but NumPy at module level, so that it runs in the peers' environment as well.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent.parent / "data"


class Row:
    """Seconds of every phase, one plain epoch, and where the scores went."""

    def __init__(self, name: str) -> None:
        self.name, self.seconds, self.epoch, self.notes = name, {}, None, ""
        self.before = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase by the wall clock."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def measure_epoch(self, step, repeats: int = 3) -> None:
        """T_epoch: the fastest of a few plain forward-and-backward passes over the training set."""
        found = []
        for _ in range(repeats):
            started = time.perf_counter()
            step()
            found.append(time.perf_counter() - started)
        self.epoch = min(found)

    def forget_peak(self) -> None:
        """Report memory above what imports, data and a plain epoch have taken so far."""
        self.before = peak_megabytes()

    def finish(self, scores: np.ndarray | None = None) -> None:
        """Save the scores and print the row."""
        if scores is not None:
            (DATA / "scores").mkdir(parents=True, exist_ok=True)
            np.save(DATA / "scores" / f"{self.name}.npy", np.asarray(scores, dtype=np.float64))
        record = {
            "name": self.name,
            "seconds": self.seconds,
            "epoch": self.epoch,
            "peak_mb": peak_megabytes(),
            "over_mb": peak_megabytes() - self.before,
            "notes": self.notes,
        }
        sys.stdout.write("\n" + json.dumps(record) + "\n")


def peak_megabytes() -> float:
    """The most memory this process has held, imports included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
