"""Every kept score against the truth: LDS with its interval, cost, and paired comparisons; written to benchmarks/quality/results.json."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality.kept import Kept
from quality.problem import PROBLEMS, Problem
from quality.rows import COUNTS, PAIRS, ROWS
from quality.truth import TRUTHS
from tqdm import tqdm

from upweight.evaluate import LDS, Comparison, SubsetTruth, compare, lds

RESULTS = Path(__file__).resolve().parent / "results.json"
DRAWS = 100
"""Resamples of subsets and queries; two or three lie beyond each end of an interval."""

MARGIN = 0.02
"""Of non-inferiority in LDS, stated before anything was measured."""


@dataclass
class Board:
    """Scores of one setting as they were held against its truth."""

    truth: SubsetTruth
    scored: dict[tuple[str, int], tuple[LDS, float]] = field(default_factory=dict)

    def add(self, method: str, count: int, scores: np.ndarray, seconds: float) -> None:
        """Score a method over so many models."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a negative score is shown, not warned of
            self.scored[method, count] = lds(scores, self.truth, draws=DRAWS), seconds

    def rows(self) -> list[dict[str, Any]]:
        """A record a method and number of models."""
        return [
            {
                "method": method,
                "models": count,
                "lds": float(found.score),
                "low": found.score.low,
                "high": found.score.high,
                "seconds": seconds,
            }
            for (method, count), (found, seconds) in self.scored.items()
        ]

    def versus(self, pairs: Iterable[tuple[str, str, str]]) -> list[dict[str, Any]]:
        """Ours less theirs over equally many models, for every pair and number of models that both have."""
        found = []
        for ours, theirs, why in pairs:
            for count in COUNTS:
                if (ours, count) in self.scored and (theirs, count) in self.scored:
                    a, b = (self.scored[one, count][0].score for one in (ours, theirs))
                    found.append(
                        {"ours": ours, "theirs": theirs, "why": why, "models": count} | told(compare(a, b, MARGIN))
                    )
        return found


def told(comparison: Comparison) -> dict[str, Any]:
    """A comparison as numbers and a verdict."""
    difference = comparison.difference
    verdict = "better" if comparison.better else "not inferior" if comparison.not_inferior else "open"
    verdict = "worse" if comparison.worse and not comparison.not_inferior else verdict
    return {"difference": float(difference), "low": difference.low, "high": difference.high, "verdict": verdict}


def board_of(problem: Problem, methods: Iterable[str], counts: Iterable[int]) -> Board:
    """All that is kept of one setting."""
    board, kept = Board(SubsetTruth.load(TRUTHS / f"{problem.name}.npz")), Kept(problem.folder)
    units = residuals(problem) if problem.measure == "prediction" else None
    for method in tqdm(list(methods), desc=problem.name):
        for count in counts:
            of_loss = ROWS[method].group != "baseline"
            found = kept.get(method, count, units if of_loss else None)
            if found is not None:
                board.add(method, count, *found)
    return board


def residuals(problem: Problem) -> np.ndarray:
    """f − y of every model and query: with ½(f − y)², what turns scores of the loss into scores of the prediction, exactly."""
    X, y = problem.query
    with torch.no_grad():
        return np.stack([(model(X) - y).squeeze(1).double().numpy() for model in problem.models(problem.count)])


def record(problem: Problem) -> dict[str, Any]:
    """What results.json holds of one setting."""
    board, kept = board_of(problem, ROWS, COUNTS), Kept(problem.folder)
    truth = board.truth
    any_score = next(iter(board.scored.values()))[0]
    tuning = problem.folder / "tuning.json"
    return {
        "title": problem.title,
        "sizes": list(problem.sizes),
        "damping": problem.damping,
        "truth": repr(truth),
        "ceiling": None if np.isnan(any_score.ceiling) else any_score.ceiling,
        "training": json.loads((problem.folder / "training.json").read_text("utf-8")),
        "tuning": json.loads(tuning.read_text("utf-8"))["words"] if tuning.exists() else None,
        "rows": board.rows(),
        "errors": {method: error for method in ROWS if (error := kept.error(method)) is not None},
        "pairs": board.versus(PAIRS),
    }


def main(names: list[str]) -> None:
    """Score the settings named, or all that have a truth, and keep what is known of the others."""
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for name in names or [name for name in PROBLEMS if (TRUTHS / f"{name}.npz").exists()]:
        results[name] = record(PROBLEMS[name]())
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
