"""Run every row in a process of its own, hold its scores against the truth, and write docs/performance.md.

make bench                                all workloads, peers included
python benchmarks/run.py softmax lines    some of them; or single rows by name
python benchmarks/run.py page             no row: the page again, from benchmarks/results.json
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measured import DATA
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
RESULTS = HERE / "results.json"
"""Every row as it was printed; part of the repository, so that the page can be written again without measuring again."""
PEERS = Path(os.environ.get("UPWEIGHT_PEERS", HERE / ".peers" / "bin" / "python"))
BERGSON = Path(os.environ.get("UPWEIGHT_BERGSON", HERE / ".bergson" / "bin" / "python"))


@dataclass(frozen=True)
class Entry:
    """One row of the table: a script, the environment it runs in, and how long it may take."""

    name: str
    label: str
    script: str
    python: Path = Path(sys.executable)
    limit: int = 180


GROWTH = {
    "n": (2000, 4000, 8000, 16000),
    "m": (50, 100, 200, 400),
    "width": (128, 256, 512, 1024),
    "depth": (2, 4, 8, 16),
}
RETRAINED = {
    "alone": "one after another (the truth of the rest)",
    "workers": "in two worker processes",
    "ensemble": "**stacked**, the width measured",
    "auto": "whichever a short measurement finds faster",
}
NAMED = {"fashion": "FashionMNIST", "concrete64": "Concrete in float64"}
WORKLOADS = {
    "softmax": (
        "Exact influence, 10-class softmax on 9,000 digits (p = 7,850), 100 queries × 9,000 points",
        [
            Entry("softmax-truth", "truth: Grams and Cholesky in NumPy, float64", "softmax/truth.py"),
            Entry("softmax-upweight", '**upweight**, `order="first"`', "softmax/ours.py"),
            Entry("softmax-upweight-float32", "**upweight**, float32 model", "softmax/ours.py"),
            Entry("softmax-upweight-cholesky", 'upweight, `solver="cholesky"`', "softmax/ours.py"),
            Entry("softmax-upweight-corrected", "upweight, leverage-corrected drop", "softmax/ours.py"),
            Entry("softmax-pydvl-block-cg", "pyDVL, block CG", "softmax/peers.py", PEERS),
            Entry("softmax-pydvl-cg", "pyDVL, CG one query at a time", "softmax/peers.py", PEERS),
            Entry("softmax-captum-naive", "captum, naive at full rank", "softmax/peers.py", PEERS, 300),
            Entry("softmax-dattri-cg", "dattri, CG", "softmax/peers.py", PEERS),
            Entry("softmax-dattri-explicit", "dattri, explicit", "softmax/peers.py", PEERS),
            Entry("softmax-kronfluence-ekfac", "kronfluence, EK-FAC (approximate)", "softmax/peers.py", PEERS),
        ],
    ),
    "networks": (
        "EK-FAC on networks, 200 queries × 8,000 digits: a 535,818-parameter perceptron, and a convolutional net's 94k parameters in Conv2d and Linear",
        [
            Entry(
                "mlp-upweight-written",
                "perceptron: upweight, every pair exact (the truth of sampled-label EK-FAC)",
                "networks/ours.py",
            ),
            Entry("mlp-upweight-sampled", "**upweight**, fresh sampled labels", "networks/ours.py"),
            Entry("mlp-upweight-exact", "upweight, exact expectation over labels", "networks/ours.py"),
            Entry("mlp-upweight-self", "upweight, sampled labels, and self-influence of all", "networks/ours.py"),
            Entry("mlp-kronfluence", "kronfluence", "networks/peers.py", PEERS, 300),
            Entry("mlp-pydvl", "pyDVL", "networks/peers.py", PEERS, 300),
            Entry("cnn-upweight-written", "convolutions: **upweight**, sampled labels", "networks/ours.py", limit=300),
            Entry("cnn-kronfluence", "kronfluence", "networks/peers.py", PEERS, 300),
        ],
    ),
    "transformer": (
        "EK-FAC on a transformer language model of 128 symbols a sequence, 24 linear layers of 3.15M parameters, 50 queries × 1,024 sequences",
        [
            Entry("transformer-upweight", "**upweight**, sampled labels", "transformer/ours.py", limit=900),
            Entry(
                "transformer-upweight-half",
                "**upweight**, factors from every other sequence",
                "transformer/ours.py",
                limit=900,
            ),
            Entry(
                "transformer-upweight-bfloat16",
                "**upweight**, factors from every other sequence, bfloat16 products",
                "transformer/ours.py",
                limit=900,
            ),
            Entry(
                "transformer-upweight-self",
                "upweight, sampled labels, and self-influence of all",
                "transformer/ours.py",
                limit=900,
            ),
            Entry("transformer-kronfluence", "kronfluence", "transformer/peers.py", PEERS, 900),
            Entry("transformer-bergson", "bergson", "transformer/peers.py", BERGSON, 900),
        ],
    ),
    "index": (
        "Indexes: a sequence of the transformer in 1/16 of the bytes of LoGra's 64 × 64 float16 numbers, against the uncompressed scores; a million synthetic examples, 512 numbers of 5,514 in int8",
        [
            Entry("index-truth", "uncompressed", "index/sequences.py", limit=900),
            Entry("index-logra", "LoGra 64 × 64, float16: 196,608 bytes", "index/sequences.py", limit=900),
            Entry("index-eigenbasis", "**upweight**, eigenbasis, int8: 12,288 bytes", "index/sequences.py", limit=900),
            Entry("million-build", "**upweight**, a million examples: build", "index/million.py", limit=900),
            Entry(
                "million-query", "**upweight**, a million examples: both ends, 20 each", "index/million.py", limit=900
            ),
        ],
    ),
    "solver": (
        "The damped Gauss-Newton answer of 100 queries on the perceptron, λ = .01, to a relative residual of 1e-4",
        [
            Entry("mlp-ggn-curved", "**upweight**, all at once", "networks/solver.py", limit=600),
            Entry("mlp-ggn-none", "upweight, all at once, no preconditioner", "networks/solver.py", limit=600),
            Entry("mlp-ggn-single-curved", "upweight, one at a time", "networks/solver.py", limit=600),
            Entry("mlp-ggn-single-none", "upweight, one at a time, no preconditioner", "networks/solver.py", limit=600),
        ],
    ),
    "growth": (
        "Growth: EK-FAC and first-order scores of a perceptron (128 inputs, 3 hidden layers of 256, n = 4,000, m = 100) while one size doubles",
        [
            Entry(f"growth-{what}-{size}", f"{what} = {size:,}", "networks/growth.py")
            for what, sizes in GROWTH.items()
            for size in sizes
        ],
    ),
    "refits": (
        "100 retrainings on random halves: a perceptron on Concrete (34,305 parameters, 896 points, 20 epochs) and one on FashionMNIST (567,434 parameters, 6,144 points, 2 epochs)",
        [
            Entry(f"{kind}-{road}", f"{NAMED.get(kind, kind.capitalize())}: {label}", "refits/ours.py", limit=1800)
            for kind in ("concrete", "concrete64", "fashion")
            for road, label in RETRAINED.items()
            if kind != "concrete64" or road in ("alone", "ensemble")
        ],
    ),
    "lines": (
        "Deletion diagnostics at n = 100,000, p = 51: I_up,params of every point, and the drop of 20 queries' loss",
        [
            Entry("ols-by-hand", "least squares, closed form by hand in NumPy", "lines/by_hand.py"),
            Entry("ols-upweight", "**upweight**, least squares", "lines/ours.py"),
            Entry("logit-by-hand", "logistic, closed form by hand in NumPy", "lines/by_hand.py"),
            Entry("logit-upweight", "**upweight**, logistic", "lines/ours.py"),
            Entry("logit-statsmodels", "statsmodels Logit `d_params`", "lines/peers.py"),
            Entry("ols-statsmodels", "statsmodels OLS `dfbetas`, at n = 1,000 only", "lines/peers.py"),
        ],
    ),
}
TRUTHS = {
    "softmax": "softmax-truth",
    "ols": "ols-by-hand",
    "logit": "logit-by-hand",
    "mlp": "mlp-upweight-written",
    "cnn": "cnn-upweight-written",
    "transformer": "transformer-upweight",
    "index": "index-truth",
    "concrete": "concrete-alone",
    "concrete64": "concrete64-alone",
    "fashion": "fashion-alone",
}


def run(entry: Entry) -> dict:
    """The record a row printed; a row over its limit says so."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    try:
        found = subprocess.run(
            [str(entry.python), entry.script, entry.name],
            cwd=HERE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=entry.limit,
        )
    except subprocess.TimeoutExpired:
        return {"name": entry.name, "failure": f"> {entry.limit} s, stopped"}
    lines = [line for line in found.stdout.splitlines() if line.startswith("{")]
    if found.returncode or not lines:
        return {"name": entry.name, "failure": (found.stderr.strip().splitlines() or ["no output"])[-1][:90]}
    return json.loads(lines[-1]) | agreement(entry.name)


def agreement(name: str) -> dict:
    """Relative error, Pearson and slope of a row's scores against the truth of its workload."""
    truth, mine = DATA / "scores" / f"{TRUTHS.get(name.split('-')[0])}.npy", DATA / "scores" / f"{name}.npy"
    if not (mine.exists() and truth.exists()) or truth == mine:
        return {}
    a, b = np.load(truth), np.load(mine)
    slope = float((a * b).sum() / (b * b).sum())
    error = float(np.linalg.norm(a - b) / np.linalg.norm(a))
    return {"error": error, "pearson": float(np.corrcoef(a.ravel(), b.ravel())[0, 1]), "slope": slope}


def line(entry: Entry, record: dict, run: str = "") -> str:
    """One row of the table; a row of another run than the rest is marked."""
    label = entry.label + (" ‡" if run and record.get("run") != run else "")
    label += f"<br>{record['notes']}" if entry.script in NOTED and record.get("notes") else ""
    if "failure" in record:
        return f"| {label} | {record['failure']} | | | | | | |"
    phases = " + ".join(f"{name} {seconds:.3g}" for name, seconds in record["seconds"].items())
    total = sum(record["seconds"].values())
    ratio = total / record["epoch"] if record["epoch"] else 0.0
    epochs = f"{ratio:,.{1 if ratio < 100 else 0}f}" if ratio else ""
    numbers = [f"{record[key]:.{digits}}" if key in record else "" for key, digits in FIGURES]
    return f"| {label} | {total:.3g} | {phases} | {epochs} | {record['peak_mb']:,.0f} | {' | '.join(numbers)} |"


NOTED = ("networks/solver.py", "index/sequences.py", "index/million.py", "refits/ours.py")
"""Scripts whose rows say what they found beneath their label."""

FIGURES = (("error", "1e"), ("pearson", "5f"), ("slope", "4f"))
HEAD = "| method | seconds | of which | × T_epoch | peak MB | relative error | Pearson | slope |\n|---|---|---|---|---|---|---|---|"


def page(records: dict[str, dict]) -> str:
    """docs/performance.md, whole."""
    main_run = Counter(record.get("run") for record in records.values()).most_common(1)[0][0]
    parts = [
        "# Performance",
        "The tables are generated by `make bench`; do not edit. What follows them is written by hand. Every row is a process of its own. T_epoch is one plain "
        "forward and backward pass over the training set in that process; peak MB is the whole process, imports included. Error, "
        "Pearson and slope are of the scores against the truth named first in each table.",
        f"Measured {main_run}; Python {platform.python_version()}. Peers: `benchmarks/peers.txt`. {_others(records, main_run)}".strip(),
    ]
    for title, entries in WORKLOADS.values():
        known = [line(entry, records[entry.name], main_run) for entry in entries if entry.name in records]
        if known:
            parts += [f"## {title}", "\n".join([HEAD, *known])]
    notes = HERE / "notes.md"
    return "\n\n".join([*parts, notes.read_text("utf-8").strip()]) + "\n"


def _others(records: dict[str, dict], main_run: str) -> str:
    """When and where the rows of other runs were measured."""
    others = sorted({record["run"] for record in records.values()} - {main_run})
    return f"Rows marked ‡ are of other runs: {'; '.join(others)}." if others else ""


def processor() -> str:
    """How many cores, and whose."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [text.split(":")[1].strip() for text in lines if text.startswith("model name")]
    return f"{os.cpu_count()} cores of {named[0] if named else platform.processor() or platform.machine()}"


def main(wanted: list[str]) -> None:
    """Run what is wanted, keep what was measured before, and write the page."""
    records = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    everything = [(name, entry) for name, (_, entries) in WORKLOADS.items() for entry in entries]
    entries = [entry for name, entry in everything if not wanted or name in wanted or entry.name in wanted]
    started = f"{time.strftime('%Y-%m-%d %H:%M')}, {processor()}"
    for entry in (bar := tqdm(entries, unit="row")):
        bar.set_postfix_str(entry.name)
        records[entry.name] = run(entry) | {"run": started}
        RESULTS.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", "utf-8")
        tqdm.write(line(entry, records[entry.name]))
    PAGE.write_text(page(records), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
