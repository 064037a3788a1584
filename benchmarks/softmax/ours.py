"""upweight on the softmax problem: first order by either solver, and the corrected drop."""

from __future__ import annotations

import sys

import torch
from measured import Row
from softmax.problem import PENALTY, plain_epoch, torch_problem

import upweight as uw

ROWS = {
    "softmax-upweight": ("first", "auto", torch.float64),
    "softmax-upweight-float32": ("first", "auto", torch.float32),
    "softmax-upweight-cholesky": ("first", "cholesky", torch.float64),
    "softmax-upweight-corrected": ("newton", "cholesky", torch.float64),
}


def main(name: str) -> None:
    """One study, one question."""
    order, solver, dtype = ROWS[name]
    row = Row(name)
    model, X, y, Xt, yt = torch_problem(dtype)
    row.measure_epoch(plain_epoch(model, X, y))
    with row.phase("fit"):
        study = uw.Study(
            model, (X, y), loss="cross_entropy", penalty=uw.L2(PENALTY), protocol="fixed_total", solver=solver
        )
    with row.phase("score"):
        effects = study.drop((Xt, yt), order=order)
    row.notes = effects.verdict
    row.finish(effects.values)


if __name__ == "__main__":
    main(sys.argv[1])
