"""Fold: work shared out and summed over examples. Here one process does all of it; ``Ranks`` are many.

Every rank asks the same questions in the same order. What a rank does on its own part of the examples runs inside
``phase``; what the parts add up to is had by ``sum``, ``each`` or ``exchanged``, and is the same on every rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from upweight._typing import Tensor

Item = TypeVar("Item")
Parts = tuple[Tensor, ...]


class Fold(ABC):
    """How a sum over examples is taken: by one process, or by ranks that each take a part.

    Attributes:
        rank, size: which of how many processes this is.
    """

    rank: int
    size: int

    @abstractmethod
    def share(self, count: int) -> tuple[int, int]:
        """First and last of ``count`` items that are this process's own; the parts of all ranks are in order and whole."""

    @abstractmethod
    def phase(self, name: str) -> Any:
        """A ``with`` around what a rank does on its own part: an error in it ends the phase on every rank."""

    @abstractmethod
    def sum(self, phase: str, tensors: Sequence[Tensor]) -> None:
        """Σ over ranks, in place: tensors of the same shapes, in the same order, on every rank."""

    @abstractmethod
    def each(
        self,
        phase: str,
        items: Sequence[Item],
        cost: Callable[[Item], float],
        function: Callable[[Item], Parts],
        like: Callable[[Item], Parts],
    ) -> list[Parts]:
        """function(item) of every item, each taken by one rank and told to all.

        Args:
            cost: of an item, so that ranks finish together.
            like: empty tensors of the shapes and types that function returns.
        """

    @abstractmethod
    def exchanged(self, phase: str, value: Any, to: int | None = None) -> list[Any]:
        """Every rank's value, in order of ranks; with ``to``, empty but on that rank."""

    @abstractmethod
    def alone(self) -> Any:
        """A ``with`` inside which this process works for itself and the others are not waited for."""


@dataclass(frozen=True)
class Here(Fold):
    """One process that does everything itself."""

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> tuple[int, int]:
        return 0, count

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        yield

    def sum(self, phase: str, tensors: Sequence[Tensor]) -> None:
        return

    def each(
        self,
        phase: str,
        items: Sequence[Item],
        cost: Callable[[Item], float],
        function: Callable[[Item], Parts],
        like: Callable[[Item], Parts],
    ) -> list[Parts]:
        return [function(item) for item in items]

    def exchanged(self, phase: str, value: Any, to: int | None = None) -> list[Any]:
        return [value]

    @contextmanager
    def alone(self) -> Iterator[None]:
        yield


HERE = Here()
