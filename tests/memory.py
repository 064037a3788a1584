"""Run in a process of its own: a study under a limit of the operating system that naive arrays would break.

python memory.py LIMIT CASE    prints what came out
"""

from __future__ import annotations

import re
import resource
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

import upweight as uw

INPUTS, WIDTH, CLASSES, POINTS, QUERIES = 96, 768, 4, 1500, 100


def made(**how):
    """About 700,000 parameters: gradients of all points would be 4 GB, of all queries 0.3 GB."""
    torch.manual_seed(0)
    layers = [nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES)]
    X, y = torch.randn(POINTS + QUERIES, INPUTS), torch.randint(0, CLASSES, (POINTS + QUERIES,))
    study = uw.Study(
        nn.Sequential(*layers).eval(), (X[:POINTS], y[:POINTS]), loss="cross_entropy", **({"curvature": "ekfac"} | how)
    )
    return study, (X[POINTS:], y[POINTS:])


def held() -> int:
    """Private memory this process may write to, in bytes: what RLIMIT_DATA bounds."""
    found = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"), re.M)
    assert found is not None
    return int(found[1]) * 1024


def main(limit: str, case: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    memory = None if limit == "none" else int(limit)
    study, query = made(memory=memory)
    small, _ = made()
    small.plan(1)  # threads and buffers of the libraries are there now
    del small
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (held() + memory, resource.RLIM_INFINITY))
    if case == "naive":
        rows = uw.rows(study.objective).dense()
        print(float(rows.sum()))
    elif case == "index":
        index = uw.Index.build(
            study, Path(tempfile.mkdtemp()) / "index", compression="eigenbasis", size=512, progress=False
        )
        print(index.query(query, k=3).top.sum())
    else:
        effects = study.drop(query)
        print(effects.values.sum(), abs(effects.values).sum(), study.self_influence().sum())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
