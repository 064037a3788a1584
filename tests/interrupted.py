"""A process of its own that builds an index again and again in children, and kills them: run by test_interrupted.py.

    python interrupted.py random COUNT SEED FOLDER        kill -9 after a random time, then again until it is done
    python interrupted.py operations before|after FOLDER  kill -9 at the first file operation, at the second, ...

Prints one line of JSON: how many children were killed, and which trials came out differently.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import upweight as uw
from upweight.store import files

OPERATIONS = ("open", "write", "fsync", "replace", "ftruncate", "unlink", "makedirs")
N, MORE = 60, 12


def data(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def made() -> uw.Study:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    return uw.Study(model, data(N, 1), loss="cross_entropy", curvature="ekfac", damping=0.1)


def whole_job(study: uw.Study, folder: Path) -> None:
    """What is interrupted: a build of seven shards, an append of two, a deletion."""
    settings = {"compression": "eigenbasis", "size": 20, "dtype": "int8", "bounds": True, "rows_per_shard": 9}
    index = uw.Index.build(study, folder, progress=False, **settings)
    index.append(data(MORE, 2), progress=False)
    index.delete([3, N + 1])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that counts, or that is left over."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "LOCK"}


def child(study: uw.Study, folder: Path, before=None) -> int:
    """Do the job in a process of its own."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if before is not None:
            before()
        whole_job(study, folder)
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)


def die_at(nth: int, when: str) -> None:
    """Kill this process at its nth file operation, before or after it is done; writes are cut in half first."""
    count = iter(range(10**6))

    def wrapped(real, name):
        def call(*args, **more):
            last = next(count) == nth
            if last and name == "write" and when == "before":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            if last and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **more)
            finally:
                if last:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in OPERATIONS:
        setattr(files.os, name, wrapped(getattr(os, name), name))


def finished(pid: int) -> bool:
    """Wait for a child: True when it did the whole job; an error of its own ends everything."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        raise SystemExit("a child failed without being killed")
    return True


def at_random(
    study: uw.Study, count: int, seed: int, folder: Path, reference: dict[str, bytes], seconds: float
) -> dict:
    draw, killed, wrong = random.Random(seed), 0, []
    while killed < count:
        trial, done = folder / f"trial-{killed}", False
        while not done:
            pid = child(study, trial)
            time.sleep(draw.uniform(0, 1.1 * seconds))
            os.kill(pid, signal.SIGKILL)
            done = finished(pid)
            killed += not done
            if killed >= count and not done:
                done = finished(child(study, trial))
        if contents(trial) != reference:
            wrong.append(trial.name)
        shutil.rmtree(trial)
    return {"killed": killed, "wrong": wrong}


def at_operations(study: uw.Study, when: str, folder: Path, reference: dict[str, bytes]) -> dict:
    nth, wrong = 0, []
    while True:
        trial = folder / f"operation-{nth}"
        if finished(child(study, trial, lambda nth=nth: die_at(nth, when))):
            return {"killed": nth, "wrong": wrong}
        if not finished(child(study, trial)) or contents(trial) != reference:
            wrong.append(nth)
        shutil.rmtree(trial)
        nth += 1


def main() -> None:
    torch.set_num_threads(1)
    study, folder = made(), Path(sys.argv[-1])
    study.fitted.blocked.curvature  # noqa: B018 - the factors, once for all children
    started = time.perf_counter()
    if not finished(child(study, folder / "reference")):
        raise SystemExit("the reference was not made")
    seconds, reference = min(2.0, time.perf_counter() - started), contents(folder / "reference")
    if sys.argv[1] == "random":
        found = at_random(study, int(sys.argv[2]), int(sys.argv[3]), folder, reference, seconds)
    else:
        found = at_operations(study, sys.argv[2], folder, reference)
    sys.stdout.write(json.dumps(found | {"files": len(reference)}) + "\n")


if __name__ == "__main__":
    main()
