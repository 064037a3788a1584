"""The page's data: everything gathered, as JSON of bounded size."""

from __future__ import annotations

import platform
from importlib import metadata
from itertools import zip_longest
from typing import Any

import numpy as np

from upweight.report.gathered import Gathered
from upweight.report.judgement import judge
from upweight.report.looks import looks, of_study
from upweight.report.outcomes import Outcomes
from upweight.report.packed import codes, jsonable, names, numbers
from upweight.review.followed import training_set_fingerprint
from upweight.show import Shown

BEST = 10
"""Points that helped, and points that hurt, listed for a query."""

CLASSES = 30
"""Classes up to which they are set against each other in a table of colours."""

DOTS = 4000
"""Pairs of predicted and refitted changes that are drawn."""

VERSIONS = ("upweight", "torch", "numpy", "scipy", "scikit-learn")


def payload(found: Gathered) -> dict[str, Any]:
    """All of it."""
    shown = of_study(found.fitted, found.wanted.display, found.examples)
    listed = _listed(found)
    return {
        "title": found.wanted.title or "What the training data did",
        "fingerprint": training_set_fingerprint(found.fitted),
        "trust": _trust(found),
        "calibration": _calibration(found),
        "points": _points(found),
        "queries": _queries(found, shown, listed),
        "classes": _classes(found),
        "groups": _groups(found),
        "looks": _looks(found, shown, listed),
        "made": _made(found),
    }


def _trust(found: Gathered) -> dict[str, Any]:
    judgement = judge(found.trust, found.calibration)
    return {
        "light": judgement.light,
        "headline": judgement.headline,
        "findings": [[one.light, one.name, one.words] for one in judgement.findings],
    }


def _calibration(found: Gathered) -> dict[str, Any] | None:
    refits = found.calibration
    if refits is None:
        return None
    m, k = refits.predicted.shape
    step = max(1, -(-m * k // DOTS))
    return {
        "predicted": numbers(refits.predicted.ravel()[::step]),
        "refitted": numbers(refits.refitted.ravel()[::step]),
        "train": [jsonable(name) for name in refits.train_ids.tolist()],
        "query": [jsonable(name) for name in refits.query_ids.tolist()],
        "step": step,
        "measure": refits.measure,
        "unit": refits.unit,
        "figures": [
            ["slope", f"{refits.slope:.4f}", "1 means that sizes are right"],
            ["Pearson", f"{refits.pearson:.5f}", "1 means that they lie on a line"],
            ["Spearman", f"{refits.spearman:.4f}", "1 means that the ranking is right"],
            ["relative error", f"{refits.relative_error:.2g}", "‖predicted − refitted‖ / ‖refitted‖"],
        ],
    }


def _points(found: Gathered) -> dict[str, Any]:
    relabelled = None
    if found.relabelled is not None:
        places, values = found.relabelled
        relabelled = {"at": codes(places), "effect": numbers(values)}
    return _columns(found.points) | {
        "influence": numbers(found.self_influence),
        "mean": numbers(found.mean),
        "relabelled": relabelled,
        "known": None if found.known is None else codes(found.known),
    }


def _columns(of: Outcomes) -> dict[str, Any]:
    pack = codes if of.kind == "class" else numbers
    return {
        "kind": of.kind,
        "levels": [jsonable(level) for level in of.levels],
        "ids": names(of.ids),
        "given": pack(of.given),
        "predicted": pack(of.predicted),
        "suggested": pack(of.suggested),
        "loss": numbers(of.loss),
        "confidence": numbers(of.confidence),
    }


def _listed(found: Gathered) -> list[tuple[np.ndarray, np.ndarray]]:
    """For the mean and for every query shown: positions that helped most, and that hurt most."""
    if found.each is None or found.mean is None:
        return []
    picked = []
    for row in (found.mean, *found.each.values):
        order = np.argsort(-row, kind="stable")
        helped, hurt = order[:BEST], order[::-1][:BEST]
        picked.append((helped[row[helped] > 0], hurt[row[hurt] < 0]))
    return picked


def _queries(found: Gathered, shown: Shown | None, listed: Any) -> dict[str, Any] | None:
    if found.queries is None or found.each is None or found.mean is None or found.examples is None:
        return None
    entries = []
    asked = (None, *map(int, found.shown))
    for query, row, (helped, hurt) in zip(asked, (found.mean, *found.each.values), listed, strict=True):
        sides = {"helped": helped, "hurt": hurt}
        entries.append({side: [_entry(shown, query, int(p), float(row[p])) for p in at] for side, at in sides.items()})
    where, chosen = found.shown, found.queries.at(found.shown)
    return _columns(chosen) | {
        "count": len(found.examples),
        "meanLoss": float(found.queries.loss.mean()),
        "unit": found.each.unit,
        "entries": entries,
        "looks": [None if shown is None else shown.of_query(int(place)) for place in where],
    }


def _entry(shown: Shown | None, query: int | None, place: int, effect: float) -> list[Any]:
    """A listed point: where it is, its effect, and what of its look is another beside this query."""
    look = None if shown is None else shown.of_pair(query, place)
    return [place, float(f"{effect:.5g}"), *([] if look is None else [look])]


def _classes(found: Gathered) -> dict[str, Any] | None:
    """Mean over the queries of a class of the sum of effects over the points of a class."""
    of, queries = found.points, found.queries
    if found.each is None or queries is None or not of.levels or not 1 < len(of.levels) <= CLASSES:
        return None
    assert of.given is not None
    if queries.given is None:
        return None
    count, asked = len(of.levels), queries.given[found.shown]
    sums = np.zeros((len(asked), count))
    np.add.at(sums.T, of.given, found.each.values.T)
    cells = [
        [int(q), int(t), float(f"{sums[asked == q, t].mean():.4g}")]
        for q in range(count)
        if (asked == q).any()
        for t in range(count)
    ]
    return {"cells": cells, "queries": len(asked)}


def _groups(found: Gathered) -> dict[str, Any] | None:
    if found.groups is None:
        return None
    of = found.groups
    order = np.argsort(-of.values[0], kind="stable")
    return {
        "rows": [[str(of.train_ids[k]), float(f"{of.values[0, k]:.5g}")] for k in order],
        "order": of.order,
        "unit": of.unit,
    }


def _looks(found: Gathered, shown: Shown | None, listed: Any) -> dict[str, Any] | None:
    """Looks of the first suspects and of the points listed for queries, taking turns while the page has room."""
    if shown is None:
        return None
    mentioned = [int(place) for helped, hurt in listed for side in (helped, hurt) for place in side]
    turns = zip_longest(found.order.tolist(), mentioned)
    wanted = dict.fromkeys(place for turn in turns for place in turn if place is not None)
    return {"kind": shown.kind, "head": shown.head, "items": looks(shown, wanted, found.points.loss.size)}


def _made(found: Gathered) -> dict[str, Any]:
    fitted, rows = found.fitted, []
    o = fitted.objective
    rows.append(["model", f"{type(o.model).__name__}, {o.space.size:,} parameters, {o.count:,} training points"])
    rows.extend(["data", note] for note in found.wanted.notes)
    rows.append(["loss", f"{o.loss.name} ({o.loss.unit})"])
    rows.append(["penalty", f"protocol {fitted.protocol}: " + PROTOCOLS[fitted.protocol]])
    rows.append(["curvature", f"{fitted.kind}; {fitted.verdict}"])
    if found.each is not None:
        rows.append(["effects", f"order {found.each.order}; positive means that without the point the loss would rise"])
        rows.extend(["note", note] for note in found.each.notes)
    rows.append(["versions", ", ".join(_versions())])
    return {"rows": rows, "measured": str(found.trust), "commands": list(found.wanted.commands)}


PROTOCOLS = {
    "fixed_total": "a refit keeps the total penalty, as scikit-learn's C and alpha do",
    "fixed_mean": "a refit keeps the penalty per point, as weight decay does",
}


def _versions() -> list[str]:
    found = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
