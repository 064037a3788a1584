"""The plan: what every method would take, as a table, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from upweight.planning.counts import METHODS, Task, Work, method_work
from upweight.planning.rates import Rates
from upweight.planning.shapes import ModelShape

if TYPE_CHECKING:
    import pandas as pd

HEAD = ("method", "FLOPs", "time", "factors", "store", "peak memory", "fits")


@dataclass(frozen=True)
class Plan:
    """What every method would take for one task on one machine.

    Attributes:
        shape, task: what is counted.
        rates: FLOPs a second, measured.
        works: a method each.
        tile: examples of a batch.
    """

    shape: ModelShape
    task: Task
    rates: Rates
    works: tuple[Work, ...]
    tile: int

    def seconds(self, method: str) -> float:
        """How long a method takes."""
        return seconds(self[method], self.rates)

    def __getitem__(self, method: str) -> Work:
        return next(work for work in self.works if work.method == method)

    def fits(self, work: Work) -> bool:
        """Whether it stays within the memory."""
        return work.peak <= self.task.memory

    def rows(self) -> list[dict[str, Any]]:
        """A dict a method, plain numbers: what ``upweight plan --json`` prints."""
        return [
            asdict(work) | {"flops": work.flops, "seconds": seconds(work, self.rates), "fits": self.fits(work)}
            for work in self.works
        ]

    def to_pandas(self) -> pd.DataFrame:
        """The same as a frame, one row a method."""
        import pandas as pd

        return pd.DataFrame(self.rows()).set_index("method")

    @property
    def sentence(self) -> str:
        """What the table is about."""
        s, t, r = self.shape, self.task, self.rates
        return (
            f"{s.tracked:,} tracked of {s.parameters:,} parameters, {t.points:,} training points, {t.queries:,} queries, batches of {self.tile:,}; "
            f"{amount(s.forward, 'FLOPs')} a forward pass; memory {amount(float(t.memory), 'B')}. "
            f"Measured here: passes {amount(r.passes, 'FLOP/s')}, products {amount(r.products, 'FLOP/s')}, eigendecompositions {amount(r.eigen, 'FLOP/s')}."
        )

    def cells(self) -> list[tuple[str, ...]]:
        """The table in words."""
        return [
            (
                work.method,
                amount(work.flops, ""),
                duration(seconds(work, self.rates)),
                amount(work.factors, "B"),
                amount(work.store, "B") if work.store else "",
                amount(work.peak, "B"),
                "yes" if self.fits(work) else "no",
            )
            for work in self.works
        ]

    def __repr__(self) -> str:
        return f"{self.sentence}\n{columns([HEAD, *self.cells()])}"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.cells())
        return f"<div><p>{escape(self.sentence)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def plan(shape: ModelShape, task: Task, rates: Rates, tile: int) -> Plan:
    """Every method counted."""
    return Plan(shape, task, rates, tuple(method_work(method, shape, task) for method in METHODS), tile)


def seconds(work: Work, rates: Rates) -> float:
    """Each kind of work at its own rate."""
    return work.passes / rates.passes + work.products / rates.products + work.eigen / rates.eigen


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells below each other: the first to the left, the rest to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def amount(value: float, unit: str) -> str:
    """Three digits and a prefix: 1.23 GB."""
    place = 0
    while value >= 999.5 and place < len(PREFIXES) - 1:
        value, place = value / 1000, place + 1
    return f"{value:.3g} {PREFIXES[place]}{unit}".strip()


def duration(value: float) -> str:
    """Seconds, minutes, hours, days or years, whichever reads best."""
    for unit, length in (("years", 365.25 * 86400), ("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * length:
            return f"{value / length:.3g} {unit}"
    return f"{value:.2g} s"
