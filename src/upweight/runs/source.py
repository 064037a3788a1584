"""What a run is made from, as it was named on the command line: a factory, or a table and its target."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from upweight.errors import InputError

TABLES = (".csv", ".tsv", ".parquet")
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".npy", ".npz", ".dill", ".cloudpickle")


@dataclass(frozen=True)
class Source:
    """Everything that decides what a run computes.

    Attributes:
        name: 'module:function', or the path of a table.
        target: the column to predict, for a table.
        model: path of a skops pipeline that was fitted on the table; None fits the default one.
        trusted: types that the skops file may hold besides scikit-learn's own.
        validation: path of a table of queries; None holds out a share of the table.
        holdout: that share; 0 trains on every row and has no queries.
        id: the column that names rows; row numbers from 0 otherwise.
        task: 'classes' or 'numbers'; None decides by the target.
        seed: of the split.
    """

    name: str
    target: str | None = None
    model: str | None = None
    trusted: tuple[str, ...] = ()
    validation: str | None = None
    holdout: float = 0.2
    id: str | None = None
    task: str | None = None
    seed: int = 0

    @property
    def is_table(self) -> bool:
        """True for a file of rows."""
        return Path(self.name).suffix.lower() in TABLES

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {"trusted": list(self.trusted)}

    @classmethod
    def of(cls, found: dict[str, Any]) -> Source:
        """As it was written."""
        fields: dict[str, Any] = {**found, "trusted": tuple(found.get("trusted", ()))}
        return cls(**fields)

    def absolute(self) -> Source:
        """With the full paths of its files, so that it means the same from any folder."""
        paths = {
            name: str(Path(value).resolve())
            for name, value in (("model", self.model), ("validation", self.validation))
            if value is not None
        }
        if self.is_table:
            paths["name"] = str(Path(self.name).resolve())
        return Source.of(self.as_dict() | paths)


def refuse_pickle(path: str | Path) -> None:
    """No file is unpickled: a pickle runs whatever code its author wrote.

    Raises:
        InputError: the file's name or its first bytes are a pickle's.
    """
    target = Path(path)
    named = target.suffix.lower() in PICKLES
    with_pickle = False
    if target.is_file() and not named:
        with target.open("rb") as file:
            head = file.read(2)
        with_pickle = head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if named or with_pickle:
        raise InputError(
            f"{target} is a pickle, which can run code when it is read. Expected a table (.csv, .tsv, .parquet), a pipeline saved by skops (.skops), or a factory module:function that makes the study."
        )
