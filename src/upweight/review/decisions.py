"""Decisions about training points, as CSV or JSON that a page writes and a study reads."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upweight.errors import DecisionError, plain
from upweight.store import write_whole

FORMAT = "upweight.decisions.1"
ACTIONS = ("keep", "relabel", "drop")
COLUMNS = ("train", "position", "decision", "label", "given")

FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""First characters that a spreadsheet may take for a formula, and the quote that keeps it from doing so."""

LARGEST = 64 * 2**20
"""Bytes of a decisions file that are read: half a million decisions take about 30 MB."""


@dataclass(frozen=True)
class Decision:
    """What is to become of one training point.

    Attributes:
        train: the point's name, as the study or its text calls it.
        action: 'keep', 'relabel' or 'drop'.
        label: the new label, for 'relabel'.
        given: the label that it had when it was decided about; None where that was not written down.
        position: its place in the training set, None where only its name is known.
    """

    train: Any
    action: str
    label: Any = None
    given: Any = None
    position: int | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise DecisionError(
                f"found the decision {self.action!r} about point {self.train!r}. Expected 'keep', 'relabel' or 'drop'; correct it."
            )
        if self.action == "relabel" and (self.label is None or self.label == ""):
            raise DecisionError(
                f"point {self.train!r} is to be relabelled, but the new label is missing. Expected one in 'label'; fill it in."
            )


@dataclass(frozen=True)
class Decisions:
    """Decisions about the points of one study.

    Attributes:
        items: one a point.
        fingerprint: of the study they were made about; None where it is unknown.
    """

    items: tuple[Decision, ...]
    fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Decision]:
        return iter(self.items)

    def count(self, action: str) -> int:
        """How many decide this."""
        return sum(item.action == action for item in self.items)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as JSON, or as CSV where the name ends so; what the page's export writes."""
        text = self.to_csv() if str(path).lower().endswith(".csv") else self.to_json()
        return write_whole(path, text.encode())

    def to_json(self) -> str:
        """Every value in its own type, with the fingerprint."""
        rows = [_row(item) for item in self.items]
        return json.dumps({"format": FORMAT, "fingerprint": self.fingerprint, "decisions": rows}, indent=1) + "\n"

    def to_csv(self) -> str:
        """A table; cells that a spreadsheet would compute are quoted with ', which reading takes away again."""
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(COLUMNS)
        for item in self.items:
            writer.writerow([_guarded(value) for value in _row(item).values()])
        return buffer.getvalue()


def read_decisions(source: Any) -> Decisions:
    """Decisions from a CSV or JSON file, a frame, a list of dicts, or Decisions as they are.

    Raises:
        DecisionError: no such file, not decisions, a point decided twice, an unknown decision, a missing label.
    """
    if isinstance(source, Decisions):
        return source
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source))
    if hasattr(source, "to_dict"):
        source = source.to_dict("records")
    rows = list(source) if isinstance(source, Iterable) else [source]
    if not all(isinstance(row, Mapping) for row in rows):
        raise DecisionError(
            f"found decisions of type {type(source).__name__}. Expected a .csv or .json file, a frame, or a list of dicts with 'train', 'decision' and 'label'."
        )
    return _once([_decision(row) for row in rows], None)


def _from_file(path: Path) -> Decisions:
    try:
        if path.stat().st_size > LARGEST:
            raise DecisionError(f"{path} holds {path.stat().st_size:,} bytes. Expected at most {LARGEST:,}; split it.")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DecisionError(
            f"could not read {path}: {error.strerror}. Expected decisions exported from a report; check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise DecisionError(f"{path} is not UTF-8 text. Expected what the report exports; save it as UTF-8.") from error
    return _from_json(text, path) if text.lstrip()[:1] in ("{", "[") else _from_csv(text, path)


def _from_json(text: str, path: Path) -> Decisions:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DecisionError(
            f"{path} is not JSON ({error}). Expected what the report exports; export it again."
        ) from error
    found = {"decisions": found, "format": FORMAT} if isinstance(found, list) else found
    if found.get("format") != FORMAT or not isinstance(found.get("decisions"), list):
        raise DecisionError(
            f"{path} has format {found.get('format')!r}. Expected {FORMAT!r} and a list of decisions; export it from a report."
        )
    if not all(isinstance(row, dict) for row in found["decisions"]):
        raise DecisionError(f"{path} holds decisions that are no objects. Expected {{train, decision, label}} in each.")
    fingerprint = found.get("fingerprint")
    return _once([_decision(row) for row in found["decisions"]], fingerprint if isinstance(fingerprint, str) else None)


def _from_csv(text: str, path: Path) -> Decisions:
    csv.field_size_limit(LARGEST)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DecisionError(f"{path} is not a CSV table ({error}). Expected what the report exports.") from error
    return _once([_decision({key: _unguarded(value) for key, value in row.items() if key}) for row in rows], None)


def _decision(row: Mapping[Any, Any]) -> Decision:
    missing = [name for name in ("train", "decision") if row.get(name) is None]
    if missing:
        raise DecisionError(
            f"found a decision without {missing[0]!r}, but with {', '.join(map(repr, list(row)[:6]))}. Expected the columns {', '.join(COLUMNS)}."
        )
    position = row.get("position")
    try:
        position = None if position in (None, "") or position != position else int(position)  # pyright: ignore
    except (ValueError, TypeError, OverflowError):
        raise DecisionError(
            f"point {row['train']!r} has position {position!r}. Expected a whole number, or none; correct it."
        ) from None
    label, given = (
        None if value != value or value == "" else plain(value) for value in (row.get("label"), row.get("given"))
    )
    return Decision(plain(row["train"]), str(row["decision"]), label, given, position)


def _once(items: list[Decision], fingerprint: str | None) -> Decisions:
    seen: dict[tuple[str, int | None], Decision] = {}
    for item in items:
        before = seen.setdefault((str(item.train), item.position), item)
        if before is not item and (before.action, str(before.label)) != (item.action, str(item.label)):
            raise DecisionError(
                f"point {item.train!r} is decided about twice, {before.action!r} and {item.action!r}. Expected one decision a point; remove one."
            )
    return Decisions(tuple(seen.values()), fingerprint)


def _row(item: Decision) -> dict[str, Any]:
    values = (item.train, item.position, item.action, item.label, item.given)
    return dict(zip(COLUMNS, (_jsonable(value) for value in values), strict=True))


def _jsonable(value: Any) -> Any:
    value = plain(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) and not _number(value) else value


def _unguarded(value: Any) -> Any:
    quoted = isinstance(value, str) and value.startswith("'") and value[1:].startswith(FORMULA)
    return value[1:] if quoted else value


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
