"""What libraries do with one small problem and what people do to it: right, refused, or something else in silence.

    make rivals            # all, then the table of docs/rivals.md

    PYTHONPATH=benchmarks:benchmarks/rivals python benchmarks/rivals/probe.py dattri     # one, in an environment that has it

Every situation is a process of its own. Prints one JSON line a situation; `make rivals` keeps them in benchmarks/rivals/probe.jsonl.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import sys
import warnings
from importlib import metadata
from typing import Any

import numpy as np
import torch
from libraries import LIBRARIES
from problem import SITUATIONS, exact


def outcome(library: str, situation: str, pipe: Any) -> None:
    """Ask, and send what came of it."""
    given = SITUATIONS[situation]()
    seed = torch.random.get_rng_state()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            scores = np.asarray(LIBRARIES[library][0](given), dtype=float)
        except Exception as error:  # whatever a library raises is what is recorded
            pipe.send({"error": type(error).__name__, "said": " ".join(str(error).split())[:300]})
            return
    found: dict[str, Any] = {"nan": float(np.isnan(scores).mean()), "shape": list(scores.shape)}
    found["warned"] = sorted({one.category.__name__ for one in caught if library in one.filename.lower()})
    if not found["nan"] and not situation.startswith("NaN") and "label" not in situation:
        given.model.eval()
        truth = exact(given).numpy()
        found |= {
            "error_to_exact": float(np.linalg.norm(scores - truth) / np.linalg.norm(truth)),
            "slope": float((scores * truth).sum() / np.square(truth).sum()),
            "pearson": float(np.corrcoef(scores.ravel(), truth.ravel())[0, 1]),
            "scores": scores.round(9).ravel().tolist(),
        }
    found["seed_kept"] = bool(torch.equal(seed, torch.random.get_rng_state()))
    pipe.send(found)


def main(library: str) -> None:
    """Every situation, each in a process of its own."""
    fork = multiprocessing.get_context("fork")
    torch.set_num_threads(1)
    for situation in SITUATIONS:
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=outcome, args=(library, situation, sender))
        process.start()
        process.join()
        found = receiver.recv() if receiver.poll() else {"error": "died", "said": f"exit code {process.exitcode}"}
        about = {
            "library": library,
            "version": metadata.version(LIBRARIES[library][1]),
            "date": datetime.date.today().isoformat(),
            "situation": situation,
        }
        print(json.dumps(about | found, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
