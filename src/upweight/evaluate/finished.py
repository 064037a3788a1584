"""Retrainings that are finished: kept one by one, under the name of what they were made of."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

import torch

from upweight.errors import StoreError
from upweight.evaluate.states import State
from upweight.store import read_arrays, write_arrays

EXACT_IN_FLOAT32 = (torch.bfloat16, torch.float16)
"""Types that NumPy's file format does not know, or that float32 holds exactly."""


class Finished(ABC):
    """Finished states by name."""

    @abstractmethod
    def get(self, key: str) -> State | None:
        """A finished state, None where there is none."""

    @abstractmethod
    def put(self, key: str, state: State) -> None:
        """Keep a finished state."""

    @property
    @abstractmethod
    def where(self) -> str:
        """In words, for messages."""


@dataclass(frozen=True)
class InMemory(Finished):
    """Kept as long as this process lives."""

    states: dict[str, State] = field(default_factory=dict, repr=False)

    def get(self, key: str) -> State | None:
        return self.states.get(key)

    def put(self, key: str, state: State) -> None:
        self.states[key] = state

    @property
    def where(self) -> str:
        return "in memory, as long as this Retraining is"


@dataclass(frozen=True)
class InFolder(Finished):
    """One safetensors file each, written whole or not at all; several processes may share the folder.

    Raises:
        StoreError: the folder cannot be made or written to, or holds a damaged file.
    """

    folder: Path

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"could not make the folder {self.folder}: {error.strerror}. Expected a place to write finished retrainings to; correct folder=."
            ) from error

    def get(self, key: str) -> State | None:
        path = self._path(key)
        if not path.exists():
            return None
        return {name: torch.from_numpy(array) for name, array in read_arrays(path)[0].items()}

    def put(self, key: str, state: State) -> None:
        arrays = {k: (v.float() if v.dtype in EXACT_IN_FLOAT32 else v).numpy() for k, v in state.items()}
        write_arrays(self._path(key), arrays, {})

    @property
    def where(self) -> str:
        return f"in {self.folder}"

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def finished_in(folder: str | os.PathLike[str] | None) -> Finished:
    """Where finished retrainings are kept."""
    return InMemory() if folder is None else InFolder(Path(folder))
