"""An index of a million synthetic examples: built, opened again, and asked; and how its ends compare with the uncompressed ones.

python index/million.py million-build     build it (data/index-million, half a gigabyte)
python index/million.py million-query     open it and ask, once, and again; the fastest of five counts
"""

from __future__ import annotations

import shutil
import sys
import warnings

import numpy as np
import torch
from measured import DATA, Row
from torch import nn

import upweight as uw

COUNT, INPUTS, HIDDEN, CLASSES, QUERIES, NUMBERS = 1_000_000, 32, 128, 10, 20, 512
FOLDER = DATA / "index-million"


def problem(count: int):
    """A perceptron of 5,514 parameters, trained for a few steps on labels a random one draws."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    X = torch.randn(count + QUERIES, INPUTS, generator=generator)
    teacher = nn.Sequential(nn.Linear(INPUTS, 64), nn.Tanh(), nn.Linear(64, CLASSES))
    model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
    with torch.no_grad():
        logits = torch.cat([4 * teacher(part) for part in X.split(65536)])
        y = torch.distributions.Categorical(logits=logits).sample()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for start in range(0, min(count, 400 * 256), 256):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(X[start : start + 256]), y[start : start + 256]).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model.eval(), X[:count], y[:count], X[count:], y[count:]


def main(name: str, count: int = COUNT) -> None:
    """One row of the table."""
    warnings.simplefilter("ignore")
    row = Row(name)
    model, X, y, Xt, yt = problem(count)
    with row.phase("study"):
        study = uw.Study(model, (X, y), loss="cross_entropy", curvature="ekfac", factor_share=0.02)
    if name == "million-build":
        shutil.rmtree(FOLDER, ignore_errors=True)
        with row.phase("build"):
            index = uw.Index.build(study, FOLDER, compression="eigenbasis", size=NUMBERS, dtype="int8")
        row.notes = str(index.info())
        return row.finish()
    with row.phase("open"):
        index = uw.Index.open(FOLDER, study)
    for phase, queries in (("cold query", 1), *[("warm query", 1)] * 5, (f"{QUERIES} warm queries", QUERIES)):
        before = row.seconds.get(phase, float("inf"))
        with row.phase(phase):
            found = index.query((Xt[:queries], yt[:queries]), k=20)
        row.seconds[phase] = min(row.seconds[phase], before)  # the fastest of five, as of T_epoch
    with row.phase("ranked again"):
        again = index.query((Xt[:1], yt[:1]), k=20, rerank=200)
    truth = np.argsort(-study.drop((Xt[:5], yt[:5]), order="first").values, axis=1)[:, :20]
    shared = [len({*a} & {*b}) for a, b in zip(truth.tolist(), found.top_ids[:5].tolist(), strict=True)]
    kept = len({*truth[0].tolist()} & {*again.top_ids[0].tolist()})
    row.notes = f"of the uncompressed top 20 of five queries the index gives {sum(shared) / 5:.1f}; of the first query's, {kept} once ranked again"
    row.finish()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
