"""Projections: the same as their dense twins for every kind of layer, and unbiased where they are random."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import upweight as uw
from networks import relative, trained
from upweight.errors import ConfigError
from upweight.linop import BlockProjection, Gaussian, KroneckerEigen, Picked, Sided, two_sided
from upweight.linop import projection as projections
from upweight.solve.averaged import AveragedInverse
from upweight.space import FlatLayout
from upweight.tiles.compressed import compressed

DRAW = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64)


BASIS = KroneckerEigen(torch.linalg.qr(normal(4, 4))[0], torch.linalg.qr(normal(5, 5))[0], normal(4, 5))
PROJECTIONS = {
    "gaussian": Gaussian(20, 7, seed=1),
    "picked": Picked(20, torch.tensor([3, 4, 19])),
    "both sides": Sided(normal(4, 3), normal(5, 2)),
    "both sides, some": Sided(normal(4, 3), normal(5, 2), torch.tensor([0, 5])),
    "eigenbasis": Sided.of_eigenbasis(BASIS, torch.tensor([0, 7, 8, 19])),
    "nothing": Sided.of_eigenbasis(BASIS, torch.tensor([], dtype=torch.int64)),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_products_equal_the_dense_twin(name):
    piece, rows = PROJECTIONS[name], normal(6, 20)
    assert piece.dense().shape == (piece.size, piece.width)
    torch.testing.assert_close(rows @ piece, rows @ piece.dense())


def test_coordinates_of_an_eigenbasis_are_columns_of_it():
    places = torch.tensor([0, 7, 8, 19])
    Q = torch.kron(BASIS.left, BASIS.right)
    torch.testing.assert_close(Sided.of_eigenbasis(BASIS, places).dense(), Q[:, places])


def test_a_random_projection_keeps_inner_products_on_average_and_its_error_is_as_said():
    u, v, r, draws = normal(1, 30), normal(1, 30), 8, 2000
    found = torch.stack([((u @ Gaussian(30, r, seed)) @ (v @ Gaussian(30, r, seed)).T)[0, 0] for seed in range(draws)])
    exact = float((u @ v.T)[0, 0])
    deviation = float((u.square().sum() * v.square().sum() + exact**2).div(r).sqrt())
    assert float(found.mean()) == pytest.approx(exact, abs=4 * deviation / draws**0.5)
    assert float(found.std()) == pytest.approx(deviation, rel=0.1)


def test_a_matrix_too_large_to_keep_is_drawn_the_same(monkeypatch):
    rows, kept = normal(3, 9000), Gaussian(9000, 4, seed=3)
    monkeypatch.setattr(projections, "HELD_NUMBERS", 10)
    torch.testing.assert_close(rows @ Gaussian(9000, 4, seed=3), rows @ kept.dense())
    with pytest.raises(ConfigError, match="at least 1"):
        Gaussian(9, 0)


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer", "built-in transformer", "lstm", "residual"])
def test_rows_through_a_projection_of_layers_equal_the_dense_product(name):
    t = trained(name)
    objective = uw.Study(t.model, t.data, loss="cross_entropy", curvature="ekfac").objective
    P = two_sided(uw.curvature.identity(objective), 3, 4, seed=1)
    G = uw.rows(objective)
    assert relative(G @ P, G.dense() @ P.dense()) < 1e-10
    assert relative(P.dense(), P.after(torch.eye(P.size).double())) == 0
    assert sum(where.stop - where.start for where in P.columns()) == P.width


class Tied(nn.Module):
    """An embedding that is used again as the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(11, 6, padding_idx=0), nn.Linear(6, 6)

    def forward(self, tokens):
        return nn.functional.linear(self.mix(self.table(tokens).mean(1)), self.table.weight)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_projected_by_the_rows_they_look_up(tied):
    torch.manual_seed(0)
    model = Tied() if tied else nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(24, 3))
    data = torch.randint(0, 11, (30, 4)), torch.randint(0, 3, (30,))
    study = uw.Study(model.double().eval(), data, loss="cross_entropy", curvature="ekfac")
    engine, size = study.fitted.engine, study.objective.space.size
    _, batch = next(iter(engine.batches()))
    outputs, targets, jacobian = engine.linearised(batch)
    layers = jacobian.pulled([study.objective.loss.gradient(outputs, targets)])
    parts = []
    for layer in layers:
        places = torch.randperm(layer.layout.width, generator=DRAW)[:5].sort().values
        parts.append((layer.layout, Picked(layer.layout.width, places)))
    P = BlockProjection(size, tuple(parts))
    assert relative(compressed(layers, P)[:, 0], uw.rows(study.objective).dense() @ P.dense()) < 1e-12


def test_an_average_of_inverses_equals_its_dense_twin():
    rows, weights = normal(9, 5), torch.rand(9, generator=DRAW, dtype=torch.float64)
    found = AveragedInverse(rows, weights, 0.3)
    exact = sum(
        w * torch.linalg.inv(torch.outer(g, g) + 0.3 * torch.eye(5).double())
        for w, g in zip(weights, rows, strict=True)
    )
    torch.testing.assert_close(found.dense(), exact)
    v = normal(2, 5)
    torch.testing.assert_close(v @ found, v @ exact)
    assert found.symmetric and found.transpose() is found and found.size == 5


def test_second_moments_are_the_gram_matrix_of_every_stretch():
    rows, weights = normal(12, 6), torch.rand(12, generator=DRAW, dtype=torch.float64)
    whole = rows.T @ (weights[:, None] * rows)
    torch.testing.assert_close(uw.curvature.second_moments(rows, weights).dense(), whole)
    cut = uw.curvature.second_moments(rows, weights, [slice(0, 2), slice(2, 6)]).dense()
    torch.testing.assert_close(cut, torch.block_diag(whole[:2, :2], whole[2:, 2:]))
    assert isinstance(uw.curvature.second_moments(rows, weights).parts[0][0], FlatLayout)
