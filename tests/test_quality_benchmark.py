"""The scoring of the quality benchmark: what is kept is what is scored, and its page says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def quality():
    """The benchmark's modules."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from quality import kept, page, rows, score

        yield {"kept": kept, "page": page, "rows": rows, "score": score}
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def truth():
    """Outputs that are linear in what is left out, with a little noise a seed, and the scores that made them."""
    from upweight.evaluate import SubsetTruth, random_subsets

    rng = np.random.default_rng(0)
    scores = rng.standard_normal((6, 40))
    masks = random_subsets(40, 24, seed=1)
    exact = (1 - 2 * masks) @ scores.T
    outputs = exact + 0.5 * rng.standard_normal((3, *exact.shape))
    return SubsetTruth.of(masks, outputs), scores


def test_kept_scores_are_averaged_over_models_unless_taken_together(quality, tmp_path):
    kept = quality["kept"].Kept(tmp_path)
    for k in range(3):
        kept.put("one", str(k), lambda k=k: np.full((2, 3), float(k)))
    assert kept.get("one", 3)[0].tolist() == [[1.0] * 3] * 2
    assert kept.get("one", 10) is None
    kept.put("one", "0-2", lambda: np.full((2, 3), 7.0))
    assert kept.get("one", 3)[0].tolist() == [[7.0] * 3] * 2


def test_what_is_kept_is_not_computed_again_and_a_failure_is_remembered(quality, tmp_path):
    kept, calls = quality["kept"].Kept(tmp_path), []
    for _ in range(2):
        kept.put("one", "0", lambda: calls.append(1) or np.zeros((1, 1)))
        kept.put("broken", "0", lambda: calls.append(2) or 1 / 0)
    assert calls == [1, 2]
    assert kept.error("broken") == "ZeroDivisionError: division by zero"
    assert kept.get("broken", 1) is None


def test_the_board_ranks_right_scores_above_noise_and_compares_them_in_pairs(quality, truth):
    known, scores = truth
    board = quality["score"].Board(known)
    rng = np.random.default_rng(5)
    board.add("right", 1, scores, 1.0)
    board.add("worse", 1, scores + 2 * rng.standard_normal(scores.shape), 1.0)
    board.add("turned", 1, -scores, 1.0)  # a wrong sign is shown as it is
    found = {row["method"]: row for row in board.rows()}
    assert found["right"]["lds"] > 0.95 > found["worse"]["lds"]
    assert found["turned"]["lds"] == pytest.approx(-found["right"]["lds"], abs=1e-9)
    pairs = board.versus([("right", "worse", "test"), ("worse", "right", "test"), ("right", "absent", "test")])
    assert [pair["verdict"] for pair in pairs] == ["better", "worse"]
    assert pairs[0]["difference"] == pytest.approx(-pairs[1]["difference"])
    same = board.versus([("right", "right", "test")])[0]
    assert same["verdict"] == "not inferior" and same["low"] == same["high"] == 0


def test_cost_counts_trainings_and_what_tuning_retrained(quality):
    cost, training = quality["page"].cost, {"one": 2.0, "half": 1.0}
    row = {"method": "ekfac", "models": 3, "seconds": 0.5}
    assert cost(row, training) == 6.5
    assert cost(row | {"method": "tuned"}, training) == 16.5
    assert cost(row | {"method": "random", "models": 1}, training) == 0.5


def test_every_compared_row_has_a_name_and_no_pair_is_listed_twice(quality):
    rows = quality["rows"]
    pairs = [(ours, theirs) for ours, theirs, _ in rows.PAIRS]
    assert {name for pair in pairs for name in pair} <= set(rows.ROWS)
    assert len(set(pairs)) == len(pairs)


def test_the_page_is_made_from_the_results_that_are_kept(quality):
    results = json.loads(quality["score"].RESULTS.read_text("utf-8"))
    text = (BENCHMARKS.parent / "docs" / "quality.md").read_text("utf-8")
    assert quality["page"].page(results) == text


def test_truths_are_whole_and_agree_with_the_results(quality):
    from upweight.evaluate import SubsetTruth

    results = json.loads(quality["score"].RESULTS.read_text("utf-8"))
    for name, record in results.items():
        known = SubsetTruth.load(BENCHMARKS / "quality" / "truth" / f"{name}.npz")
        assert repr(known) == record["truth"]
        assert known.seeds > 1 and (known.kept.mean(1) == 0.5).all()
