"""The damped Gauss-Newton answer of 100 queries on the perceptron: block conjugate gradients, and one query at a time."""

from __future__ import annotations

import sys
import time
import warnings

from measured import Row
from networks.problem import BATCHES, load, plain_epoch

import upweight as uw

DAMPING, TOLERANCE, QUERIES, SINGLES = 0.01, 1e-4, 100, 5


def main(name: str) -> None:
    """One preconditioner: 'curved', 'ekfac' or 'none'; 'single-…' solves a few queries one at a time and extrapolates."""
    warnings.simplefilter("ignore")
    how = name.split("-")[-1]
    row = Row(name)
    model, X, y, Xt, yt = load("mlp")
    row.measure_epoch(plain_epoch(model, X, y, BATCHES["mlp"]))
    row.forget_peak()
    solver = uw.Solver("block_cg", precondition=how, tolerance=TOLERANCE)
    with row.phase("study"):
        study = uw.Study(model, (X, y), loss="cross_entropy", damping=DAMPING, curvature="ggn", solver=solver)
        inverse = study.fitted.row_inverse(QUERIES)
    rows = uw.rows(study.objective, (Xt[:QUERIES], yt[:QUERIES])).dense()
    if "single" not in name:
        with row.phase("solve"):
            verdict = inverse.solve(rows).verdict
        row.notes = str(verdict)
        row.finish()
        return
    found, started = [], time.perf_counter()
    for one in rows[:SINGLES].split(1):
        found.append(inverse.solve(one).verdict.iterations)
    row.seconds[f"solve, {SINGLES} of {QUERIES} extrapolated"] = (time.perf_counter() - started) * QUERIES / SINGLES
    row.notes = f"iterations {found}"
    row.finish()


if __name__ == "__main__":
    main(sys.argv[1])
