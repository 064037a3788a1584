"""The statistician's questions at n = 100,000 and p = 50: processor seconds, with the agreement to a truth beside every one.

python benchmarks/desk.py [n [p]]          # prints one JSON line a question; `make people` keeps them and writes the table
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import statsmodels.api as sm

import upweight as uw

REFITTED = (7, 5000, 31000)


def timed(name: str, ask: Callable[[], Any], agreement: Callable[[Any], float]) -> None:
    """Print how long an answer takes and its relative error."""
    start = time.process_time()
    answer = ask()
    seconds = time.process_time() - start
    model, question = name.split(": ")
    line = {"model": model, "question": question, "seconds": round(seconds, 3), "relative_error": agreement(answer)}
    print(json.dumps({"date": datetime.date.today().isoformat()} | line), flush=True)


def main(n: int = 100_000, p: int = 50) -> None:
    """A linear and a logistic regression, each asked everything the desk answers."""
    rng = np.random.default_rng(0)
    X = sm.add_constant(rng.standard_normal((n, p - 1)))
    eta = X @ (0.2 * rng.standard_normal(p))
    outcomes = {
        "OLS": eta + rng.standard_t(4, n),
        "Logit": (rng.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float),
    }
    which = [place % n for place in REFITTED]
    for name, y in outcomes.items():
        model = sm.OLS if name == "OLS" else sm.Logit
        how = {} if name == "OLS" else {"disp": 0, "tol": 1e-12}
        results = model(y, X).fit(**how)
        study = uw.from_statsmodels(results)
        refits = [model(np.delete(y, i), np.delete(X, i, 0)).fit(**how) for i in which]
        true = np.stack([again.params - results.params for again in refits], 1)
        robust = np.asarray(model(y, X).fit(cov_type="HC0", **how).bse)
        outside = np.array([X[i] @ again.params for i, again in zip(which, refits, strict=True)])
        timed(
            f"{name}: every coefficient without each point",
            lambda s=study: s.drop(measure="parameters").values,
            lambda v, t=true: error(v[:, which], t),
        )
        timed(
            f"{name}: leave-one-out cross-validation",
            study.cross_validation,
            lambda v, t=outside: error(v.outputs[which, 0], t),
        )
        for kind, theirs in (("classical", np.asarray(results.bse)), ("hc0", robust)):
            timed(
                f"{name}: standard errors, {kind}",
                lambda s=study, k=kind: s.standard_errors(k),
                lambda v, t=theirs: error(v, t),
            )
        for claim in ("sign", "significance"):
            timed(
                f"{name}: worst case, {claim}, 10 greedy refits",
                lambda s=study, c=claim: s.worst_case(c, "x1", most=10),
                lambda v, m=model, y=y, h=how: greedy_error(v, m, y, X, h),
            )


def error(found: Any, true: Any) -> float:
    """‖found − true‖ / ‖true‖."""
    return float(np.linalg.norm(np.asarray(found) - true) / np.linalg.norm(true))


def greedy_error(found: Any, model: Any, y: np.ndarray, X: np.ndarray, how: dict[str, Any]) -> float:
    """The last refit of the greedy search against a cold one by statsmodels."""
    gone = found.greedy.ids
    again = model(np.delete(y, gone), np.delete(X, gone, 0)).fit(**how)
    return abs(float(found.greedy.after) / again.params[1] - 1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
