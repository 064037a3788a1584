"""What the experiments share: a size, a folder for what is finished, rows of numbers beside the paper's, one figure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "docs" / "paper"
WORK = ROOT / "build" / "paper"
"""Finished refits, which nobody wants to read but everybody to keep."""


@dataclass
class Row:
    """One number: what it is, what the paper has, what we get, and the bounds it should keep."""

    what: str
    ours: float
    paper: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bounds are kept; None without any."""
        if self.least is None and self.most is None:
            return None
        low, high = (-np.inf if self.least is None else self.least), (np.inf if self.most is None else self.most)
        return bool(low <= self.ours <= high)


@dataclass
class Result:
    """What an experiment found.

    Attributes:
        title, paper: the experiment, and what the paper reports of it.
        setting: data, sizes and refits of this run.
        why: where it differs from the paper, and why.
    """

    title: str
    paper: str
    setting: str
    rows: list[Row] = field(default_factory=list)
    why: str = ""
    figure: Any = field(default=None, repr=False)

    def add(
        self, what: str, ours: float, paper: str = "", least: float | None = None, most: float | None = None
    ) -> None:
        """One more number, with the bounds it should keep."""
        row = Row(what, float(ours), paper, least, most)
        self.rows.append(row)
        kept = {None: "", True: "kept", False: "NOT KEPT"}[row.met]
        bounds = (
            "" if row.met is None else f"  [{'' if least is None else least}, {'' if most is None else most}] {kept}"
        )
        print(f"  {what}: {row.ours:.5g}   (paper: {paper or '-'}){bounds}", flush=True)

    def save(self, name: str, size: str, folder: Path) -> None:
        """Numbers as JSON, the figure as PNG."""
        folder.mkdir(parents=True, exist_ok=True)
        held = asdict(Result(self.title, self.paper, self.setting, self.rows, self.why))
        held["rows"] = [asdict(row) | {"met": row.met} for row in self.rows]
        held.pop("figure")
        if self.figure is not None:
            self.figure.savefig(folder / f"{name}.png", dpi=90, bbox_inches="tight", metadata={"Software": None})
            plt.close(self.figure)
        (folder / f"{name}.json").write_text(json.dumps({"size": size} | held, indent=1, ensure_ascii=False) + "\n", "utf-8")  # fmt: skip


def report(name: str, run: Callable[[str, Path], Result]) -> None:
    """Run an experiment from the command line; one that is finished is not run again unless asked."""
    parser = argparse.ArgumentParser(description=run.__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--again", action="store_true", help="run it although its result is there")
    parser.add_argument(
        "--out", type=Path, help="folder of the result; docs/paper for full size, build/paper otherwise"
    )
    asked = parser.parse_args()
    out = asked.out or (RESULTS if asked.size == "full" else WORK / "small")
    kept = out / f"{name}.json"
    if kept.exists() and json.loads(kept.read_text("utf-8"))["size"] == asked.size and not asked.again:
        print(f"{name}: finished before, see {kept}; --again runs it again")
        return
    print(f"{name}, {asked.size} size", flush=True)
    run(asked.size, WORK / f"{name}-{asked.size}").save(name, asked.size, out)


def scatter(axes: Any, predicted: np.ndarray, actual: np.ndarray, title: str, label: str = "") -> None:
    """Actual against predicted changes, with the line on which they agree."""
    ends = [min(predicted.min(), actual.min()), max(predicted.max(), actual.max())]
    axes.plot(ends, ends, color="#888888", linewidth=1, zorder=1)
    axes.scatter(predicted, actual, s=9, alpha=0.6, linewidths=0, zorder=2, label=label or None)
    axes.set(xlabel="predicted change of the loss", ylabel="change after refitting")
    axes.locator_params(nbins=5)
    axes.ticklabel_format(scilimits=(-2, 2))
    axes.set_title(title, fontsize=9)
