"""Run by every rank of a test: what goes wrong on one of them, and what each of them is told.

python failures.py FILE TIMEOUT CASE...
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from answers import data, network, of_network

import upweight as uw


def raises(ranks):
    """A loss is infinite in the last rank's part only."""
    (X, y), _ = data()
    y[-1] = 9

    def loss(outputs, targets):
        return outputs.pow(2).sum(1) + torch.where(targets == 9, torch.inf, 0.0)

    return uw.Study(network(), (X, y), loss=loss, ranks=ranks)


def other_data(ranks):
    (X, y), _ = data()
    return uw.Study(network(), (X + ranks.rank, y), loss="cross_entropy", ranks=ranks)


def other_model(ranks):
    model = network()
    with torch.no_grad():
        model.head.bias[0] += ranks.rank
    return of_network(model, ranks=ranks)


def other_question(ranks):
    study, query = of_network(ranks=ranks)
    return study.leverage() if ranks.rank == 1 else study.drop(query)


def alone(ranks):
    """What one rank asks for itself, the others need not hear of."""
    study, query = of_network(ranks=ranks)
    study.drop(query)
    if ranks.rank == 1:
        with ranks.alone():
            study.self_influence()
    return float(np.abs(study.drop(query).values).sum())


def broken_writer(ranks):
    """The folder of an index holds something else."""
    folder = Path(sys.argv[1] + ".folder")
    if ranks.rank == 0:
        folder.mkdir()
        (folder / "letter.txt").write_text("mine")
    study, _ = of_network(ranks=ranks)
    return uw.Index.build(study, folder, progress=False)


def killed(ranks):
    study, query = of_network(ranks=ranks)
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return study.drop(query)


def killed_at_work(ranks):
    """In the middle of a phase, after it has met the others for it."""
    study, query = of_network(ranks=ranks)
    found = study.fitted.objective.fold
    if ranks.rank == 2:
        summed = torch.distributed.all_reduce
        torch.distributed.all_reduce = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL) or summed(*a, **k)
    return study.drop(query), found


def hangs(ranks):
    study, query = of_network(ranks=ranks)
    if ranks.rank == 1:
        time.sleep(60)
    return study.drop(query)


def main(path: str, timeout: str, cases: list[str]) -> None:
    warnings.simplefilter("ignore")
    ranks = uw.ranks(timeout=float(timeout))
    for case in cases:
        began, said = time.monotonic(), "ok"
        try:
            value = globals()[case](ranks)
            said = f"ok {value}" if isinstance(value, float) else said
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        line = json.dumps({"case": case, "said": said, "seconds": time.monotonic() - began})
        with open(f"{path}.{ranks.rank}", "a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
