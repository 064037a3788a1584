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


def take(model: str, method: str) -> dict[str, Any]:
    """One case, in this process."""
    import tempfile

    import torch

    import upweight as uw
    from upweight.questions.planned import plan_of

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    study, query = study_of(model, method)
    name = method.removesuffix(", 500 MB")
    planned = plan_of(study.fitted, query, clock=time.process_time)
    work = planned[name]
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the plan's own measuring left behind
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
    predicted = {"seconds": planned.seconds(name), "peak": work.peak, "flops": work.flops}
    return said | {"predicted": predicted, "measured": {"seconds": seconds, "peak": peak}}


def main() -> None:
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else []
    done = {(one["model"], one["method"]) for one in found}
    for method in METHODS:
        for model in MODELS:
            if (model, method) in done:
                continue
            command = [sys.executable, __file__, model, method]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                print(model, method, run.stderr[-500:], file=sys.stderr)
                continue
            found.append(json.loads(run.stdout.splitlines()[-1]))
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(found[-1], file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(take(sys.argv[1], sys.argv[2])))
    else:
        main()
