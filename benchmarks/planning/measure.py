"""The plan against what happened: predicted and measured seconds and bytes of methods on three real architectures.

python benchmarks/planning/measure.py    writes measured.json beside itself; a case already there is not taken again

Each case is a process of its own on one thread. Seconds are of the processor, so that what else the machine does does not
count; bytes are the highest resident size less that before the question (Linux). Weights and data are random: only shapes matter.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("measured.json")
MODELS = {"mlp": 4000, "cnn": 500, "transformer": 64}
METHODS = ("ekfac", "self_influence, ekfac", "kfac", "ekfac, 500 MB", "index, ekfac", "diagonal")
QUERIES = {"mlp": 200, "cnn": 100, "transformer": 16}


def module(path: str) -> Any:
    """A benchmark's own problem file."""
    sys.path.insert(0, str(ROOT))
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), ROOT / path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def study_of(model: str, method: str) -> tuple[Any, Any]:
    """A study and its queries, untrained."""
    import torch

    import upweight as uw

    torch.manual_seed(0)
    n, m = MODELS[model], QUERIES[model]
    how: dict[str, Any] = {"curvature": "ekfac" if "ekfac" in method else method}
    how["memory"] = "500MB" if "500 MB" in method else None
    if model == "transformer":
        problem = module("transformer/problem.py")
        net, tokens = problem.Transformer().eval(), torch.randint(0, problem.VOCABULARY, (n + m, problem.LENGTH))
        targets = problem.next_symbols(tokens)
        how |= {"loss": "token_cross_entropy", "parameters": problem.TRACKED}
        return uw.Study(net, (tokens[:n], targets[:n]), **how), (tokens[n:], targets[n:])
    X, y = torch.rand(n + m, 784), torch.randint(0, 10, (n + m,))
    net = module("networks/problem.py").MODELS[model]().eval()
    return uw.Study(net, (X[:n], y[:n]), loss="cross_entropy", **how), (X[n:], y[n:])


def resident(name: str) -> int:
    """VmRSS or VmHWM, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"), re.M)
    assert found is not None
    return int(found[1]) * 1024


def planned(model: str) -> dict[str, Any]:
    """A model's shapes and this machine's rates: what the plan is counted from."""
    import torch

    from upweight.planning import Rates, shape_of

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    engine = study_of(model, "ekfac")[0].fitted.engine
    shape = shape_of(engine, passes=True)
    return {"shape": asdict(shape), "rates": asdict(Rates.measured(engine, shape, time.process_time))}


def take(model: str, method: str) -> dict[str, Any]:
    """One case, in this process."""
    import tempfile

    import torch

    import upweight as uw

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    study, query = study_of(model, method)
    name = method.removesuffix(", 500 MB")
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the highest resident size counts from here
    before, began = resident("VmRSS"), time.process_time()
    if name.startswith("self"):
        study.self_influence()
    elif name.startswith("index"):
        uw.Index.build(study, Path(tempfile.mkdtemp()) / "index", compression="eigenbasis", size=4096, progress=False)
    else:
        study.drop(query)
    seconds, peak = time.process_time() - began, resident("VmHWM") - before
    said = {"model": model, "method": method, "points": MODELS[model], "queries": QUERIES[model]}
    return said | {"seconds": seconds, "peak": peak}


def run(*arguments: str) -> dict[str, Any]:
    """A process of its own, and what it printed."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    print(done.stdout.splitlines()[-1], file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"models": {}, "cases": []}
    done = {(one["model"], one["method"]) for one in found["cases"]}
    for model in MODELS:
        if model not in found["models"]:
            found["models"][model] = run(model)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for method in METHODS:
        for model in MODELS:
            if (model, method) not in done:
                found["cases"].append(run(model, method))
                RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print(json.dumps(take(sys.argv[1], sys.argv[2]) if len(sys.argv) == 3 else planned(sys.argv[1])))
