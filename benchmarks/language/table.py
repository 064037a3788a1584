"""LDS of every library's scores against the fine-tunings on random halves, and the table of docs/language-models.md.

python language/table.py         what has been measured, from data/, into benchmarks/language/measured.json and onto the page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from language.truth import TRUTH
from measured import DATA

from upweight.evaluate import SubsetTruth, compare, lds

PAGE = Path(__file__).resolve().parents[2] / "docs" / "language-models.md"
MEASURED = Path(__file__).with_name("measured.json")
ROWS = ("upweight", "kronfluence", "bergson")
MARGIN = 0.02
BEGIN, END = "do not edit between the lines -->\n", "<!-- end -->"
LOGRA_BYTES = 24 * 64 * 64 * 2
INDEXES = {
    "index": ("K-FAC's eigenbasis, 12,284 coordinates in int8", LOGRA_BYTES // 16),
    "sketch": ("sketch, signs", LOGRA_BYTES // 16),
    "sketch-4": ("sketch, signs", LOGRA_BYTES // 4),
    "sketch-1": ("sketch, signs", LOGRA_BYTES),
    "logra": ("LoGra 64 × 64, float16", LOGRA_BYTES),
}


def agreement() -> dict[str, Any]:
    """LDS of whatever scores there are, and the paired differences between the indexes and the uncompressed scores."""
    truth, found = SubsetTruth.load(TRUTH), {}
    scored = {name: DATA / "scores" / f"language-{name}.npy" for name in (*ROWS, *INDEXES)}
    results = {name: lds(np.load(path), truth) for name, path in scored.items() if path.exists()}
    for name, one in results.items():
        found[name] = [one.score.value, one.score.low, one.score.high]
    less = {}
    for name in INDEXES:
        if {name, "upweight"} <= set(results):
            pair = compare(results[name].score, results["upweight"].score, margin=MARGIN)
            less[name] = [pair.difference.value, pair.difference.low, pair.difference.high]
    return {"halves": len(truth.kept), "queries": len(truth.query_ids), "lds": found, "less uncompressed": less}


def records() -> dict[str, Any]:
    """What was measured before, with whatever is new in data/."""
    known = json.loads(MEASURED.read_text("utf-8")) if MEASURED.exists() else {}
    for path in sorted(DATA.glob("language-*.json")):
        known[path.stem] = json.loads(path.read_text("utf-8"))
    for name in ("reviews", "million-build", "million-query"):
        if (DATA / f"{name}.json").exists():
            known[name] = json.loads((DATA / f"{name}.json").read_text("utf-8"))
    if TRUTH.exists():
        known["agreement"] = agreement()
    return known


def page(known: dict[str, Any]) -> str:
    """The tables in words."""
    parts = [*_libraries(known), *_index(known), *_million(known), *_reviews(known)]
    return "\n\n".join(parts) + "\n" if parts else "Nothing yet.\n"


def _between(values: list[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"


def _libraries(known: dict[str, Any]) -> list[str]:
    agreed = known.get("agreement")
    rows = [name for name in ROWS if f"language-{name}" in known]
    if not agreed or not rows:
        return []
    lines = ["| EK-FAC by | seconds | of which | × T_epoch | peak MB | LDS |", "|---|---|---|---|---|---|"]
    for name in rows:
        one = known[f"language-{name}"]
        mine = {k: v for k, v in one["seconds"].items() if name != "upweight" or k in ("study", "fit", "score")}
        total, phases = sum(mine.values()), " + ".join(f"{k} {v:.3g}" for k, v in mine.items())
        scored = _between(agreed["lds"][name]) if name in agreed["lds"] else ""
        lines.append(
            f"| {name} | {total:.3g} | {phases} | {total / one['epoch']:.1f} | {one['peak_mb']:,.0f} | {scored} |"
        )
    text = (
        "A causal transformer (4 layers, 256 wide, 3.1M tracked parameters) of Python's standard library: pretrained here on its packages, fine-tuned on "
        f"2,048 sequences of 64 symbols; 50 queries. Our factors are of every fourth sequence. The truth is {agreed['halves']} fine-tunings on random halves, one seed; intervals are over halves and queries."
    )
    return [text, "\n".join(lines)]


def _index(known: dict[str, Any]) -> list[str]:
    agreed, one = known.get("agreement"), known.get("language-upweight")
    if one is None or agreed is None or "index" not in agreed["lds"]:
        return []
    seconds = one["seconds"]
    again = seconds["one query, recomputed"]
    text = (
        f"**Index**, in the bytes of LoGra's 64 × 64 float16 numbers a layer, a quarter and a sixteenth of them. LDS of the uncompressed scores {_between(agreed['lds']['upweight'])}; "
        f"differences are paired. One query takes {again:.1f} s by a pass over the training set with the factors at hand."
    )
    lines = [
        "| kept | bytes | LDS | less uncompressed | one query, ms | times less than a pass | 50 queries, s | built in, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (label, size) in INDEXES.items():
        if name in agreed["lds"] and name in seconds:
            ask, all_of_them = seconds[f"{name}, one query"], seconds[f"{name}, 50 queries"]
            lines.append(
                f"| {label} | {size:,} | {_between(agreed['lds'][name])} | {_between(agreed['less uncompressed'][name])} | {1000 * ask:.0f} | {again / ask:.0f} | {all_of_them:.2f} | {seconds[name]:.0f} |"
            )
    return [text, "\n".join(lines)]


def _million(known: dict[str, Any]) -> list[str]:
    if not {"million-build", "million-query"} <= set(known):
        return []
    build, ask = known["million-build"], known["million-query"]
    return [
        f"**A million synthetic examples** of a perceptron, 512 of 5,514 numbers in int8: built in {build['seconds']['build']:.0f} s with at most {build['peak_mb']:,.0f} MB, opened in "
        f"{ask['seconds']['open']:.1f} s; top and bottom 20 of a query in {ask['seconds']['warm query']:.2f} s once warm, of 20 queries in {ask['seconds']['20 warm queries']:.2f} s, at most {ask['peak_mb']:,.0f} MB. {ask['notes'][:1].upper()}{ask['notes'][1:]}."
    ]


def _reviews(known: dict[str, Any]) -> list[str]:
    one = known.get("reviews")
    if one is None:
        return []
    share = {k: v / one["seconds"]["fine-tuning"] for k, v in one["recording"].items()}
    lines = ["| score | AUC | wrong labels among the first 20 % |", "|---|---|---|"]
    for name, value in one["auc"].items():
        lines.append(f"| {name} | {_between([value, *one['interval'][name]])} | {one['fixed at 20 %'][name]:.0%} |")
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in one["seconds"].items())
    return [
        f"**MiniLM** (22.7M parameters, {one['parameters']:,} tracked), fine-tuned on 4,000 food reviews of which {one['wrong']} have the wrong label; {one['accuracy on test']:.1%} of 1,000 others are right. "
        f"{phases}; at most {one['peak_mb']:,.0f} MB. Recording order, rates and four checkpoints took {share['hooks']:.2%} of the run, and a thread that writes another {share['thread']:.2%} beside it.{one.get('note', '')}",
        "\n".join(lines),
    ]


def main() -> None:
    """Write what is known, and the page."""
    known = records()
    MEASURED.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", "utf-8")
    text = PAGE.read_text("utf-8")
    head, rest = text.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{page(known)}\n{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    main()
