"""The tables of docs/rivals.md from what was measured: benchmarks/rivals/probe.jsonl and features.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "rivals"

NEAR = 1e-3
"""A relative error that single precision explains."""

APPROXIMATE = ("kronfluence",)
"""Libraries whose own answer is an approximation: they are held against their own answer to the plain situation."""

OF_ITS_OWN = {"FutureWarning", "DeprecationWarning"}
"""Warnings about a library's own code, not about what it was given."""

OWN_DATA = ("kronfluence",)
"""Libraries that read a data set themselves, so that no loader can shuffle it."""


def read(name: str) -> list[dict[str, Any]]:
    """The lines of a file of results."""
    return [json.loads(line) for line in (HERE / name).read_text("utf-8").splitlines()]


def cell(found: dict[str, Any], plain: dict[str, Any]) -> str:
    """What came of one situation, in a few words; bold where a wrong answer looks like a right one."""
    if "said" in found:
        said = found["said"].replace("|", "/")
        return f"refused: `{found['error']}`, “{said[:70]}{'…' if len(said) > 70 else ''}”"
    warned = ", with a warning" if set(found["warned"]) - OF_ITS_OWN else ""
    if found["nan"]:
        return bold(f"{found['nan']:.0%} of the scores are NaN", warned)
    if "shuffles" in found["situation"] and found["library"] in OWN_DATA:
        return "reads the data set itself"
    if "label" in found["situation"]:
        return bold("scores", warned)
    if found["library"] in APPROXIMATE:
        return approximate(found, plain, warned)
    if found["error_to_exact"] < NEAR:
        return f"right, to {found['error_to_exact']:.0e}"
    return bold(
        f"off by {found['error_to_exact']:.2g} of the truth's size (slope {found['slope']:.2f}, correlation {found['pearson']:.2f})",
        warned,
    )


def approximate(found: dict[str, Any], plain: dict[str, Any], warned: str) -> str:
    """The same of a library that approximates."""
    if found is plain:
        return "an approximation, by design"
    moved = sum((a - b) ** 2 for a, b in zip(found["scores"], plain["scores"], strict=True)) ** 0.5
    moved /= sum(b**2 for b in plain["scores"]) ** 0.5
    if "frozen" in found["situation"]:
        return bold("the frozen layer still counts", warned) if moved < NEAR else "without the frozen layer"
    return "as above" if moved < NEAR else bold(f"moved by {moved:.2g} of its size", warned)


def bold(words: str, warned: str) -> str:
    """Loud in the table what was silent in the library."""
    return f"{words}{warned}" if warned else f"**{words}**"


def probed() -> str:
    """Situations by libraries."""
    lines = read("probe.jsonl")
    libraries = {line["library"]: line for line in lines}
    situations = list(dict.fromkeys(line["situation"] for line in lines))
    by = {(line["library"], line["situation"]): line for line in lines}
    rows = [
        "| what is done | "
        + " | ".join(f"{name} {one['version']}, {one['date']}" for name, one in libraries.items())
        + " |"
    ]
    rows.append("|---" * (len(libraries) + 1) + "|")
    for situation in situations:
        cells = [
            cell(by[name, situation], by[name, situations[0]]) if (name, situation) in by else "" for name in libraries
        ]
        rows.append(f"| {situation} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def offered() -> str:
    """Features by libraries."""
    lines = read("features.jsonl")
    features = list(dict.fromkeys(feature for line in lines for feature in line["features"]))
    rows = ["| what | " + " | ".join(f"{line['library']} {line['version']}" for line in lines) + " |"]
    rows.append("|---" * (len(lines) + 1) + "|")
    for feature in features:
        cells = [f"`{short(line['features'][feature])}`" if feature in line["features"] else "–" for line in lines]
        rows.append(f"| {feature} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def short(path: str) -> str:
    """The last name, with its class where it is a method or a member."""
    parts = path.split(".")
    return ".".join(parts[-2:]) if len(parts) > 2 and parts[-2][0].isupper() else parts[-1]
