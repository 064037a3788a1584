"""Queries that are answered for together: one row however many they are, and the same when they are captured anew."""

from __future__ import annotations

import numpy as np
import pytest

import upweight as uw
from networks import relative, trained
from upweight.questions import measuring
from upweight.tiles import BlockSum

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
CURVATURES = ({"curvature": "ekfac"}, {"curvature": "ggn", "solver": "block_cg", "damping": 0.05})
MEASURES = {
    "mean": {"aggregate": "mean"},
    "sum": {"aggregate": "sum", "measure": "margin"},
    "set": {"aggregate": "set", "measure": lambda outputs, targets: outputs.logsumexp(1).square().mean()},
    "each": {},
}


@pytest.mark.parametrize("settings", CURVATURES, ids=["ekfac", "block_cg"])
@pytest.mark.parametrize("asked", MEASURES.values(), ids=MEASURES)
def test_queries_captured_anew_give_the_same(settings, asked, monkeypatch):
    given = trained("cnn")
    study = uw.Study(given.model, given.data, loss="cross_entropy", penalty=uw.L2(1e-3), batch_size=2, **settings)
    held = study.drop(given.query, order="first", **asked).values
    monkeypatch.setattr(measuring, "_many", lambda *_: True)
    again = measuring.measurement(study.fitted, given.query, asked.get("measure", "loss"), asked.get("aggregate"))
    assert isinstance(again.jacobians, measuring.Again)
    assert relative(study.drop(given.query, order="first", **asked).values, held) < 1e-12


@pytest.mark.parametrize("settings", CURVATURES, ids=["ekfac", "block_cg"])
def test_the_mean_over_queries_is_the_mean_of_theirs_and_writes_out_one_row(settings, monkeypatch):
    given = trained("mlp")
    study = uw.Study(given.model, given.data, loss="cross_entropy", penalty=uw.L2(1e-3), **settings)
    each = study.drop(given.query, order="first").values
    found = study.drop(given.query, order="first", aggregate="mean").values
    assert relative(found, each.mean(0, keepdims=True)) < 1e-8
    measured = measuring.measurement(study.fitted, given.query, "loss", "sum")
    with monkeypatch.context() as patch:
        patch.setattr(BlockSum, "dense", lambda _: pytest.fail("rows are written out"))
        total = measured.rows()
    assert total.shape == (1, study.objective.space.size)
    alone = measuring.measurement(study.fitted, given.query, "loss", None).rows()
    assert np.allclose(total[0], alone.sum(0), rtol=1e-9, atol=1e-12)
