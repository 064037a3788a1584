"""Where the time of a small network goes: a perceptron of 50,890 parameters, 8,000 digits, 200 queries, operation by operation.

python benchmarks/networks/small.py
"""

from __future__ import annotations

import time
import warnings

import torch
from networks.problem import load
from torch import nn
from torch.profiler import ProfilerActivity, profile

import upweight as uw

SHOWN = 6
"""Operations that are named, the dearest first."""


def question(X: torch.Tensor, y: torch.Tensor, Xt: torch.Tensor, yt: torch.Tensor) -> None:
    """A study made, its factors, the first-order drop of all points, and every point's own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    study = uw.Study(model, (X, y), loss="cross_entropy", curvature="ekfac", fisher="sampled")
    study.drop((Xt, yt), order="first")
    study.self_influence()


def main() -> None:
    """Wall seconds, the share of them inside tensor operations, and which."""
    warnings.simplefilter("ignore")
    _, X, y, Xt, yt = load("mlp")
    question(X, y, Xt, yt)  # whatever is done once a process
    started = time.perf_counter()
    question(X, y, Xt, yt)
    wall = time.perf_counter() - started
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        question(X, y, Xt, yt)
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
    inside = sum(row.self_cpu_time_total for row in rows) / 1e6
    print(f"{wall:.3f} s; {inside:.3f} s inside {sum(row.count for row in rows):,} tensor operations")
    for row in rows[:SHOWN]:
        print(f"{row.key:32} {row.count:6,} times {row.self_cpu_time_total / 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
