"""Writes the tables of docs/plan.md: the plan against what was measured, and language models too large to measure here.

python benchmarks/planning/table.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from upweight.planning import LayerShape, ModelShape, Rates, Task, Work, method_work
from upweight.planning.plan import amount, duration, seconds

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plan.md"
MEASURED = Path(__file__).with_name("measured.json")
SEQUENCE, TOKENS, QUERIES, NUMBERS = 1024, 10**9, 100, 16384
RATE = 1e14
"""FLOPs a second that hours are counted at: an accelerator at a third of its nominal rate. Assumed, not measured."""

EIGEN_RATE = 1e12
"""The same for eigendecompositions in float64."""

MODELS = {
    "1B": (16, 2048, 512, 8192, 128256),
    "8B": (32, 4096, 1024, 14336, 128256),
    "13B": (40, 5120, 5120, 13824, 32000),
    "70B": (80, 8192, 1024, 28672, 128256),
}
"""Layers, width, width of keys and values, width of the perceptron, vocabulary: of well-known open models."""

METHODS = ("ekfac", "kfac", "diagonal", "self_influence, ekfac", "index, ekfac")


def language_model(name: str, perceptrons_only: bool) -> ModelShape:
    """A decoder with gated perceptrons: its linear layers are tracked, embeddings and head are not."""
    layers, d, kv, ff, vocabulary = MODELS[name]
    attention = [(d, d), (d, kv), (d, kv), (d, d)]
    perceptron = [(d, ff), (d, ff), (ff, d)]
    tracked = perceptron if perceptrons_only else attention + perceptron
    shapes = tuple(LayerShape(SEQUENCE, i, o, count=layers) for i, o in tracked)
    weights = layers * sum(i * o for i, o in attention + perceptron)
    forward = 2.0 * SEQUENCE * (weights + d * vocabulary) + 4.0 * SEQUENCE**2 * d * layers
    held = SEQUENCE * sum(one.count * (2 * one.inputs + one.outputs) for one in shapes)
    edges = SEQUENCE * sum(one.count * one.outputs for one in shapes)
    return ModelShape(shapes, forward, SEQUENCE * vocabulary, weights + d * vocabulary, 4, held, edges)


def large_rows() -> list[tuple[str, ...]]:
    """A row a model and method."""
    found = []
    task = Task(TOKENS // SEQUENCE, QUERIES, numbers=NUMBERS, memory=2**40, fisher="sampled")
    for name in MODELS:
        for only in (True, False):
            shape = language_model(name, only)
            for method in METHODS:
                work = method_work(method, shape, task)
                found.append((f"{name}, {'perceptrons' if only else 'all linear layers'}", *_cells(shape, work)))
    return found


def _cells(shape: ModelShape, work: Work) -> tuple[str, ...]:
    hours = (work.passes + work.products) / RATE + work.eigen / EIGEN_RATE
    store = amount(work.store, "B") if work.store else ""
    return (
        amount(float(shape.tracked), ""),
        work.method,
        amount(work.flops, ""),
        duration(hours),
        amount(work.factors, "B"),
        store,
        amount(work.peak, "B"),
    )


def predicted(found: dict[str, Any], case: dict[str, Any]) -> tuple[float, float]:
    """Seconds and bytes of a case, from the shapes of its model and the rates of the machine it was measured on."""
    model = found["models"][case["model"]]
    layers = tuple(LayerShape(**one) for one in model["shape"]["layers"])
    shape, bound = ModelShape(**model["shape"] | {"layers": layers}), case["method"].endswith(", 500 MB")
    task = Task(case["points"], case["queries"], 4096, memory=500 * 10**6 if bound else 2**36, bounded=bound)
    work = method_work(case["method"].removesuffix(", 500 MB"), shape, task)
    return seconds(work, Rates(**model["rates"])), work.peak


def measured_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row a case: predicted and measured, and their ratios."""
    rows = []
    for case in found["cases"]:
        time, peak = predicted(found, case)
        rows.append(
            (
                case["model"],
                case["method"],
                f"{case['points']:,} × {case['queries']}",
                f"{time:.2f}",
                f"{case['seconds']:.2f}",
                f"{time / case['seconds']:.2f}",
                f"{peak / 1e6:,.0f}",
                f"{case['peak'] / 1e6:,.0f}",
                f"{peak / case['peak']:.2f}",
            )
        )
    return rows


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def written(page: str) -> str:
    """The page with its tables made anew."""
    tables = {
        "measured": table(
            ("model", "method", "points × queries", "s planned", "s taken", "ratio", "MB planned", "MB taken", "ratio"),
            measured_rows(json.loads(MEASURED.read_text("utf-8"))),
        ),
        "large": table(
            ("model", "tracked", "method", "FLOPs", "at 10¹⁴ FLOP/s", "factors", "store", "peak memory"), large_rows()
        ),
    }
    for name, text in tables.items():
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=text: f"{m[1]}{t}\n{m[2]}", page, flags=re.S
        )
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
