"""Ranks: many processes of torch.distributed, each with a part of the examples.

Before every collective the ranks meet: each says which phase it is at and whether its part failed. So a rank that
fails ends the others with its message, one that is at another question is found out, and one that is gone or hangs
is named once the time is up. No collective is entered before all are known to be there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from upweight._typing import Tensor
from upweight.errors import DistributedError
from upweight.parallel.fold import Fold, Here, Item, Parts

GRACE = 3.0
"""Seconds in which ranks that are alive say so once another is found missing."""


@dataclass
class Ranks(Fold):
    """The processes that torchrun started, as seen by one of them.

    Attributes:
        timeout: seconds after which a rank that is waited for counts as lost.
        shares: how much of the examples each rank takes, in any unit; equal by default.
        groups: a process group a type of device: gloo for what is on the CPU, NCCL for what is on a GPU.
        store: where ranks leave word for each other.
    """

    rank: int
    size: int
    timeout: float
    shares: tuple[float, ...]
    groups: dict[str, Any] = field(repr=False)
    store: Any = field(repr=False)
    name: str = "upweight"
    step: int = 0
    lost: str = ""
    by_itself: bool = False

    def share(self, count: int) -> tuple[int, int]:
        if self.by_itself:
            return 0, count
        before, whole = sum(self.shares[: self.rank]), sum(self.shares)
        return round(count * before / whole), round(count * (before + self.shares[self.rank]) / whole)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        try:
            yield
        except DistributedError:
            raise
        except Exception as error:
            if not self.by_itself:
                self._tell(name, error)
            raise

    def sum(self, phase: str, tensors: Sequence[Tensor]) -> None:
        if self.by_itself:
            return
        self._meet(phase)
        with self._collective(phase):
            for tensor in tensors:
                held = tensor.contiguous()
                dist.all_reduce(held, group=self._group(held))
                if held is not tensor:
                    tensor.copy_(held)

    def each(
        self,
        phase: str,
        items: Sequence[Item],
        cost: Callable[[Item], float],
        function: Callable[[Item], Parts],
        like: Callable[[Item], Parts],
    ) -> list[Parts]:
        if self.by_itself:
            return [function(item) for item in items]
        owners = shared_out([cost(item) for item in items], self.shares)
        with self.phase(phase):
            found = [
                function(item) if owner == self.rank else like(item) for item, owner in zip(items, owners, strict=True)
            ]
        self._meet(phase)
        with self._collective(phase):
            for parts, owner in zip(found, owners, strict=True):
                for part in parts:
                    self._broadcast(part, owner)
        return found

    def exchanged(self, phase: str, value: Any, to: int | None = None) -> list[Any]:
        if self.by_itself:
            return [value]
        self._meet(phase)
        found: list[Any] = [None] * self.size
        with self._collective(phase):
            if to is None:
                dist.all_gather_object(found, value, group=self.groups["cpu"])
                return found
            dist.gather_object(value, found if self.rank == to else None, dst=to, group=self.groups["cpu"])
        return found if self.rank == to else []

    @contextmanager
    def alone(self) -> Iterator[None]:
        before, self.by_itself = self.by_itself, True
        try:
            yield
        finally:
            self.by_itself = before

    def __reduce__(self) -> Any:
        return Here, ()  # what is sent to a worker is that worker's own

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self

    def _group(self, tensor: Tensor) -> Any:
        return self.groups.get(tensor.device.type, self.groups["cpu"])  # gloo takes the rest as well

    def _broadcast(self, tensor: Tensor, owner: int) -> None:
        held = tensor.contiguous()
        dist.broadcast(held, src=owner, group=self._group(held))
        if held is not tensor:
            tensor.copy_(held)

    def _tell(self, phase: str, error: Exception) -> None:
        """Tell the others of a failure; what they answer no longer matters."""
        try:
            self._meet(phase, f"{type(error).__name__}: {error}")
        except DistributedError:
            return

    def _meet(self, phase: str, error: str | None = None) -> None:
        """Wait until every rank is here, and read what each has to say.

        Raises:
            DistributedError: a rank failed, is elsewhere, or did not come.
        """
        if self.lost:
            raise DistributedError(self.lost)
        step, self.step = self.step, self.step + 1
        with self._collective(phase):
            self.store.set(self._key(step, self.rank), json.dumps({"phase": phase, "error": error}))
            dist.monitored_barrier(self.groups["cpu"], timeout=timedelta(seconds=self.timeout))
            said = [json.loads(one) for one in self.store.multi_get([self._key(step, r) for r in range(self.size)])]
            if step:
                self.store.delete_key(self._key(step - 1, self.rank))  # all have read it: they are here
        failed = [f"rank {r} failed: {one['error']}" for r, one in enumerate(said) if one["error"]]
        if failed:
            raise DistributedError(
                f"in {phase!r} {'; '.join(failed)} Expected every rank to finish its part; mend that, and start all ranks again."
            )
        phases = [one["phase"] for one in said]
        if set(phases) != {phase}:
            raise DistributedError(
                f"ranks are at different questions: {', '.join(f'rank {r} at {name!r}' for r, name in enumerate(phases))}. Expected every rank to ask the same in the same order; move what only one rank asks under `with ranks.alone():`."
            )

    @contextmanager
    def _collective(self, phase: str) -> Iterator[None]:
        """What torch.distributed raises, in words: who is missing where."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, DistributedError):
                raise
            self.lost = self._words(phase)
            raise DistributedError(self.lost) from error

    def _words(self, phase: str) -> str:
        missing = self._missing()
        who = f"rank {', '.join(map(str, missing))}" if missing else "a rank"
        return f"{who} has ended, or did not come to {phase!r} within {self.timeout:g} seconds. Expected every rank to come; read what that rank wrote last, and start all ranks again, with a longer timeout= if it was only slow."

    def _missing(self) -> list[int]:
        """Ranks that are not where this one is; else those that do not answer at all."""
        try:
            here = [self._key(self.step - 1, r) for r in range(self.size)]
            absent = [r for r in range(self.size) if not self.store.check([here[r]])]
            if absent:
                return absent
            alive = [f"{self.name}/alive/{self.step}/{r}" for r in range(self.size)]
            self.store.set(alive[self.rank], "yes")
            until = time.monotonic() + min(GRACE, self.timeout)
            while time.monotonic() < until and not self.store.check(alive):
                time.sleep(0.05)
            return [r for r in range(self.size) if not self.store.check([alive[r]])]
        except RuntimeError:
            return []  # who kept the store is gone as well

    def _key(self, step: int, rank: int) -> str:
        return f"{self.name}/{step}/{rank}"


def shared_out(costs: Sequence[int | float], shares: Sequence[int | float]) -> list[int]:
    """Which rank takes which item, the dearest first to whoever would be done with it soonest; a share of zero takes none."""
    owners, load = [0] * len(costs), [0.0] * len(shares)
    able = [rank for rank, share in enumerate(shares) if share > 0]
    for item in sorted(range(len(costs)), key=lambda k: (-costs[k], k)):
        owner = min(able, key=lambda r: ((load[r] + costs[item]) / shares[r], r))
        owners[item], load[owner] = owner, load[owner] + costs[item]
    return owners
