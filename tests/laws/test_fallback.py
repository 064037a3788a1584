"""What the automatic choice of a solver does where the cheap one does not converge."""

import numpy as np
import pytest
import torch

import upweight as uw
from upweight.solve import BlockCG, Fallback


def test_an_inverse_that_stops_short_gives_way_to_the_sure_one():
    rows = torch.randn(30, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    H = uw.linop.Dense(rows.T @ rows, is_symmetric=True)
    short = BlockCG(H, H, lambda rows: rows, steps=2)
    with pytest.raises(uw.errors.NotConverged):
        short.solve(rows[:1])
    found = Fallback(short, lambda: uw.inverse(H)).solve(rows[:1])
    torch.testing.assert_close(found.rows, rows[:1] @ torch.linalg.inv(H.matrix))
    assert "Cholesky" in found.verdict.method
    enough = Fallback(BlockCG(H, H, lambda rows: rows, steps=50), lambda: pytest.fail("was not needed"))
    torch.testing.assert_close(enough.solve(rows[:1]).rows, found.rows, rtol=1e-5, atol=1e-8)


def test_a_study_falls_back_only_where_the_choice_was_its_own(monkeypatch):
    def stops(self, rows):
        raise uw.errors.NotConverged("short")

    generator = torch.Generator().manual_seed(1)
    X, y = torch.randn(200, 60, generator=generator, dtype=torch.float64), torch.arange(200) % 2
    line = torch.nn.Linear(60, 2, bias=False, dtype=torch.float64).eval()
    torch.nn.init.zeros_(line.weight)
    query = (X[:1], y[:1])

    def asked(solver):
        with pytest.warns(uw.errors.NotStationaryWarning):
            study = uw.Study(line, (X, y), loss="cross_entropy", penalty=uw.L2(0.1), solver=solver)
            return study.upweight(query)

    assert "conjugate gradients" in asked("auto").verdict
    exact = asked("cholesky").values
    monkeypatch.setattr(BlockCG, "solve", stops)
    found = asked("auto")
    np.testing.assert_allclose(found.values, exact, rtol=1e-9)
    assert "Cholesky" in found.verdict
    with pytest.raises(uw.errors.NotConverged, match="short"):
        uw.Study(line, (X, y), loss="cross_entropy", penalty=uw.L2(0.1), solver="block_cg").upweight(query)
