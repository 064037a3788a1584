"""Run in a process of its own: a study under a limit of the operating system that naive arrays would break.

python memory.py MEMORY CASE    prints what came out, and by how many bytes the resident size has grown at its highest

The system's limit is the memory and a half: what an allocator rounds up and keeps counts there.
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

INPUTS, WIDTH, CLASSES, POINTS, QUERIES = 96, 768, 4, 800, 20


def made(**how):
    """About 670,000 parameters: gradients of all points would be 2.1 GB."""
    torch.manual_seed(0)
    layers = [nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES)]
    X, y = torch.randn(POINTS + QUERIES, INPUTS), torch.randint(0, CLASSES, (POINTS + QUERIES,))
    study = uw.Study(
        nn.Sequential(*layers).eval(), (X[:POINTS], y[:POINTS]), loss="cross_entropy", **({"curvature": "ekfac"} | how)
    )
    return study, (X[POINTS:], y[POINTS:])


def held(name: str = "VmData") -> int:
    """Private memory this process may write to, in bytes: what RLIMIT_DATA bounds; or another line of its status."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"), re.M)
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
        resource.setrlimit(resource.RLIMIT_DATA, (held() + memory * 3 // 2, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the highest resident size counts from here
    before = held("VmRSS")
    if case == "naive":
        rows = uw.rows(study.objective).dense()
        print(float(rows.sum()))
    elif case == "index":
        index = uw.Index.build(
            study, Path(tempfile.mkdtemp()) / "index", compression="eigenbasis", size=512, progress=False
        )
        print(index.query(query, k=3).top.sum(), held("VmHWM") - before)
    else:
        effects = study.drop(query)
        print(effects.values.sum(), abs(effects.values).sum(), study.self_influence().sum(), held("VmHWM") - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
