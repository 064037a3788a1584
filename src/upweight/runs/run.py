"""A run on disk: one folder, every answer in a file of its own, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from upweight.errors import ConfigError, StoreError
from upweight.evaluate.calibration import Calibration, chosen_points
from upweight.evaluate.refits import Refits
from upweight.influence.effects import Effects, load
from upweight.questions import points
from upweight.report.gathered import Gathered, Stored, Wanted
from upweight.review import can_refit
from upweight.review.followed import training_set_fingerprint
from upweight.runs.opened import Opened, open_source
from upweight.runs.source import Source
from upweight.store import read_arrays, write_arrays, write_whole

FORMAT = "upweight.run.1"
BLOCK = 8
"""Queries whose effects are computed and written together: what an interruption may cost."""

SAME = 1e-3
"""Relative difference of losses up to which two fits are the same one: far above rounding, far below another model."""


@dataclass(frozen=True)
class Run:
    """A folder with a source and what has been computed of it."""

    folder: Path

    @property
    def head(self) -> dict[str, Any]:
        """What the run is made from.

        Raises:
            StoreError: the folder holds no run, a damaged one, or one of another version.
        """
        path = self.folder / "run.json"
        try:
            found = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise StoreError(
                f"found no run in {self.folder} ({error.strerror}). Expected a folder that `upweight score` wrote; check the path."
            ) from error
        except ValueError as error:
            raise StoreError(f"{path} is damaged ({error}). Expected JSON; score again into another folder.") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise StoreError(f"{path} is no run of this version. Expected the format {FORMAT!r}; score again.")
        return found

    @property
    def source(self) -> Source:
        """What the run is made from."""
        return Source.of(self.head["source"])

    def start(self, source: Source, opened: Opened) -> None:
        """Write the run's head, or go on with the one that is there.

        Raises:
            StoreError: the folder holds a run of something else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = training_set_fingerprint(opened.study.fitted)
        head = {"format": FORMAT, "source": source.as_dict(), "fingerprint": mark, "words": list(opened.words)}
        if not (self.folder / "run.json").exists():
            write_whole(self.folder / "run.json", json.dumps(head, indent=1).encode())
            return
        found = self.head
        differs = [key for key in source.as_dict() if found["source"].get(key) != source.as_dict()[key]]
        if differs or found["fingerprint"] != mark:
            what = (
                f"{differs[0]} {found['source'].get(differs[0])!r}"
                if differs
                else f"training set {found['fingerprint']}"
            )
            raise StoreError(
                f"{self.folder} holds a run of {what}. Expected the same, to go on with it; choose another --out, or remove the folder."
            )
        self._require_same_model(opened)

    def open(self) -> Opened:
        """Make the study again, and see that it is the one that was scored.

        Raises:
            StoreError: the data are others than when the run was made.
        """
        opened = open_source(self.source)
        found = training_set_fingerprint(opened.study.fitted)
        if found != self.head["fingerprint"]:
            raise StoreError(
                f"{self.folder} is a run of training set {self.head['fingerprint']}, its source is {found} now. Expected unchanged data; score again into another folder."
            )
        self._require_same_model(opened)
        return opened

    def _require_same_model(self, opened: Opened) -> None:
        """The losses of points and queries must be those that were scored: another model, or other inputs, has others."""
        now = Gathered(opened.study.fitted, Wanted(opened.query))
        for name, found in (("suspects", now.points), ("queries", now.queries)):
            path = self.folder / f"{name}.safetensors"
            before = read_arrays(path)[0]["loss"] if path.exists() else None
            after = None if found is None else found.loss
            if before is None or after is None:
                continue
            if before.shape != after.shape or not np.allclose(before, after, rtol=SAME, atol=SAME**2):
                raise StoreError(
                    f"{self.folder} was scored with other losses of its {'training points' if name == 'suspects' else 'queries'} than its source gives now: the model or the inputs have changed. Expected the same; score again into another folder."
                )

    def score(self, opened: Opened, refits: int) -> None:
        """Compute what is missing: self-influence, effects on the mean and on each query shown, refits."""
        gathered = self.gathered(opened)
        if self.suspects is None:
            found = gathered.points
            columns = {"self_influence": gathered.self_influence, "loss": found.loss.astype(float)}
            labels = {"ids": [_plain(name) for name in found.ids.tolist()], "table": _table(gathered)}
            write_arrays(self.folder / "suspects.safetensors", columns, labels)
        if gathered.examples is None or gathered.queries is None:
            return
        if not (self.folder / "queries.safetensors").exists():
            ids = [_plain(name) for name in gathered.queries.ids.tolist()]
            write_arrays(
                self.folder / "queries.safetensors", {"loss": gathered.queries.loss.astype(float)}, {"ids": ids}
            )
        if self.mean is None:
            points.drop(gathered.about_all, None).save(self.folder / "mean.safetensors")
        for name, places in self._watched(self._blocks(gathered), "queries"):
            if not (self.folder / name).exists():
                points.drop(gathered.about(places), None).save(self.folder / name)
        if refits and can_refit(opened.study.fitted):
            self.refit(opened, refits)

    def refit(self, opened: Opened, count: int) -> Calibration:
        """Leave points out for real, each written down as soon as it is done.

        Raises:
            ConfigError: a run without queries, or fewer than two refits.
        """
        if opened.query is None or count < 2:
            raise ConfigError(
                f"check found {'no queries' if opened.query is None else f'--refits {count}'}. Expected {'a run with held-out or validation rows' if opened.query is None else 'at least 2, since a slope needs two points'}."
            )
        if not can_refit(opened.study.fitted):
            raise ConfigError(
                "check found a network too large to refit by Newton's method. Expected a linear model or a small network; in Python call study.check(query, train=...)."
            )
        gathered = self.gathered(opened)
        each = gathered.each
        assert each is not None
        chosen = chosen_points(each.values, min(count, each.values.shape[1]), 0)
        question, made = gathered.about(gathered.shown), self.refits
        real, ids = Refits(opened.study, progress=False), each.train_ids
        for place in self._watched([int(p) for p in chosen if int(p) not in made], "refits"):
            values = real.drop(question.query, which=[ids[place]]).effects.values[:, 0]
            self._append({"place": place, "refitted": values.tolist()})
        return self.calibration(each, chosen)

    def calibration(self, each: Effects, chosen: np.ndarray | None = None) -> Calibration:
        """Predicted against refitted changes, of the refits that were made."""
        made = self.refits
        places = list(made) if chosen is None else [int(place) for place in chosen]
        refitted = np.stack([made[place] for place in places], 1)
        return Calibration(
            each.values[:, places], refitted, each.query_ids, each.train_ids[places], each.measure, each.unit
        )

    def gathered(self, opened: Opened) -> Gathered:
        """The answers of a report, those on disk read and the others computed."""
        wanted = Wanted(opened.query, opened.display, refits=0)
        suspects, mean = self.suspects, self.mean
        plain = Gathered(opened.study.fitted, wanted)
        stored = Stored(
            self_influence=None if suspects is None else suspects[0]["self_influence"],
            each=None if plain.examples is None else self.each(plain),
            mean=None if mean is None else mean.values[0],
        )
        return Gathered(opened.study.fitted, wanted, stored)

    @property
    def suspects(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Columns over the training points and their labels, None where they are not there yet."""
        path = self.folder / "suspects.safetensors"
        return read_arrays(path) if path.exists() else None

    @property
    def mean(self) -> Effects | None:
        """Effects on the mean loss of all queries."""
        path = self.folder / "mean.safetensors"
        return load(path) if path.exists() else None

    def each(self, gathered: Gathered) -> Effects | None:
        """Effects on every query shown, None while blocks are missing."""
        names = [name for name, _ in self._blocks(gathered)]
        return self.joined() if all((self.folder / name).exists() for name in names) else None

    def joined(self) -> Effects | None:
        """All blocks on disk as one answer."""
        blocks = [load(path) for path in sorted(self.folder.glob("each-*.safetensors"))]
        if not blocks:
            return None
        ids = np.concatenate([block.query_ids for block in blocks])
        return replace(blocks[0], values=np.concatenate([block.values for block in blocks]), query_ids=ids)

    @property
    def refits(self) -> dict[int, np.ndarray]:
        """Refitted changes by position; a line cut short by a crash does not exist."""
        path, found = self.folder / "refits.jsonl", {}
        for line in path.read_text("utf-8").split("\n")[:-1] if path.exists() else ():
            try:
                row = json.loads(line)
                found[int(row["place"])] = np.asarray(row["refitted"], dtype=float)
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def _append(self, row: dict[str, Any]) -> None:
        try:
            with (self.folder / "refits.jsonl").open("a+b") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                torn = file.read(1) not in (b"", b"\n")  # a crash cut the last line short: it is left behind
                file.write((b"\n" if torn else b"") + json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"could not write to {self.folder}: {error.strerror}. Expected a writable folder."
            ) from error

    @staticmethod
    def _blocks(gathered: Gathered) -> list[tuple[str, np.ndarray]]:
        shown = gathered.shown
        return [
            (f"each-{start:06d}.safetensors", shown[start : start + BLOCK]) for start in range(0, len(shown), BLOCK)
        ]

    @staticmethod
    def _watched(items: list[Any], what: str) -> Iterable[Any]:
        return tqdm(items, desc=what, leave=False, disable=None)


def _table(gathered: Gathered) -> list[list[Any]]:
    """Given, predicted and suggested label of every training point in words; empty without labels."""
    found = gathered.points
    if found.given is None or found.predicted is None or found.suggested is None:
        return []
    columns = (found.given, found.predicted, found.suggested)
    if found.levels:
        levels = [_plain(level) for level in found.levels]
        return [[levels[int(k)] for k in column] for column in columns]
    return [[float(value) for value in column] for column in columns]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)
