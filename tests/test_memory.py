"""Memory is bounded: answers under a limit of the operating system, the same as without, and words where it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from upweight.questions.question import Question

ROOT = Path(__file__).resolve().parent
LIMIT = 200_000_000

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.UpweightWarning")

linux = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds private memory on Linux only")


def run(limit: int | str, case: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "memory.py"), str(limit), case]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@linux
def test_effects_and_self_influence_come_out_under_a_limit_that_naive_arrays_break():
    bounded = run(LIMIT, "drop")
    assert bounded.returncode == 0, bounded.stderr[-2000:]
    free = run("none", "drop")
    assert free.returncode == 0, free.stderr[-2000:]
    found, expected = (np.asarray(one.stdout.split(), dtype=float) for one in (bounded, free))
    assert found[-1] < LIMIT
    np.testing.assert_allclose(found[1:-1], expected[1:-1], rtol=0.02)  # truncations may differ within their own error
    naive = run(LIMIT, "naive")
    assert naive.returncode != 0 and ("memory" in naive.stderr.lower()), naive.stderr[-500:]


@linux
@pytest.mark.slow
def test_an_index_is_built_and_asked_under_the_same_limit():
    bounded = run(LIMIT, "index")
    assert bounded.returncode == 0, bounded.stderr[-2000:]
    (found, grown), (expected, _) = (map(float, one.stdout.split()) for one in (bounded, run("none", "index")))
    assert grown < LIMIT and abs(found - expected) < 0.02 * abs(expected)


def wide(memory=None, width: int = 300, **how):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)).eval()
    X, y = torch.randn(200, 50), torch.randint(0, 3, (200,))
    how = {"loss": "cross_entropy", "curvature": "ekfac", "damping": uw.Relative(0.1)} | how
    return uw.Study(net, (X[:100], y[:100]), memory=memory, **how), (X[100:], y[100:])


def test_queries_that_do_not_fit_together_are_asked_in_parts_for_the_same_answer():
    (free, query), (tight, _) = wide(), wide(memory=64_000_000)
    assert len(Question(tight.fitted, query).parts) > 1 and len(Question(free.fitted, query).parts) == 1
    for ask in ("drop", "upweight"):
        whole, cut = getattr(free, ask)(query), getattr(tight, ask)(query)
        np.testing.assert_allclose(cut.values, whole.values, rtol=2e-3, atol=1e-4 * np.abs(whole.values).max())
        assert cut.query_ids.tolist() == whole.query_ids.tolist() and cut.unit == whole.unit
    mean = [study.drop(query, aggregate="mean", measure="margin").values for study in (free, tight)]
    np.testing.assert_allclose(mean[1], mean[0], rtol=2e-3, atol=1e-4 * np.abs(mean[0]).max())
    answer = tight.drop(query)
    modules = answer.by_module()
    scale = np.abs(answer.values).max()
    np.testing.assert_allclose(modules.values.sum(0), answer.values, rtol=2e-3, atol=1e-4 * scale)


def test_factors_and_answers_that_cannot_fit_are_refused_before_they_are_formed():
    study, query = wide(memory=64_000_000, width=2500)
    with pytest.raises(
        uw.errors.BudgetError, match=r"the factors of curvature='ekfac' need [\d,]+ bytes for 6,[\d,]+ parameters"
    ):
        study.drop(query)
    line = nn.Linear(1, 1).eval()
    X = torch.randn(20_000, 1)
    large = uw.Study(line, (X, X), loss="squared_error", penalty=1.0, memory=64_000_000)
    with pytest.raises(
        uw.errors.BudgetError, match=r"effects of 20,000 training points on 20,000 measurements take 3,200,000,000"
    ):
        large.drop((X, X))
    few = X[:1500], X[:1500]
    whole = uw.Study(line, (X, X), loss="squared_error", penalty=1.0).drop(few, aggregate="mean")
    np.testing.assert_allclose(
        large.drop(few, aggregate="mean").values, whole.values, atol=1e-9
    )  # changes a few at a time
