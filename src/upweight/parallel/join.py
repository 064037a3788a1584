"""Joining the ranks that torchrun started."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from upweight.errors import ConfigError, DistributedError
from upweight.parallel.fold import HERE, Fold
from upweight.parallel.ranks import Ranks

_joined = itertools.count()


def ranks(timeout: int | float = 1800.0, shares: Sequence[int | float] | None = None) -> Fold:
    """The processes torchrun started, for ``Study(..., ranks=uw.ranks())``; alone where there is one, so that a script runs without it.

    torch.distributed is started where it is not: gloo for what is on the CPU, NCCL for what is on a GPU. Every rank
    calls this, has the same model and training set, asks the same questions in the same order, and gets the whole answer.

    Args:
        timeout: seconds after which a rank that is waited for counts as lost, and the others end with a message.
        shares: how much of the training set each rank takes, in any unit, zero for none; equal by default.

    Raises:
        ConfigError: shares that are no shares of this many ranks.
        DistributedError: the ranks do not find each other.
    """
    if not timeout > 0:
        raise ConfigError(f"ranks found timeout={timeout!r}. Expected seconds above zero.")
    if not dist.is_available():
        return HERE
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _start(float(timeout))
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return HERE
    wanted = _read_shares(shares, dist.get_world_size())
    limit = timedelta(seconds=timeout)
    groups = {"cpu": dist.new_group(backend="gloo", timeout=limit)}
    if torch.cuda.is_available() and dist.is_nccl_available():
        groups["cuda"] = dist.new_group(backend="nccl", timeout=limit)
    store = dist.distributed_c10d._get_default_store()
    name = f"upweight/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_joined)}"
    return Ranks(dist.get_rank(), dist.get_world_size(), float(timeout), wanted, groups, store, name)


def _start(timeout: float) -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"the ranks did not find each other: {error}. Expected as many processes as WORLD_SIZE says, and MASTER_ADDR and MASTER_PORT that all can reach; start them with torchrun."
        ) from error


def _read_shares(shares: Sequence[int | float] | None, size: int) -> tuple[float, ...]:
    found = (1.0,) * size if shares is None else tuple(float(share) for share in shares)
    if len(found) != size or not all(0 <= share < float("inf") for share in found) or not sum(found) > 0:
        raise ConfigError(
            f"ranks found shares={shares!r} for {size} ranks. Expected one number of zero or more a rank, not all zero."
        )
    return found
