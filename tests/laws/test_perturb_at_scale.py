"""I_pert,loss through networks: −wᵢ ∂/∂xᵢ ⟨tP, ∇ℓᵢ⟩ against finite differences of the inner product, and against refits in first order."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import upweight as uw
from networks import plain_gradient, relative, trained

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
STEP = 1e-6
WAYS = [
    {"curvature": "ekfac"},
    {"curvature": "kfac"},
    {"curvature": "ekfac", "fisher": "sampled"},
    {"curvature": "ggn", "solver": "block_cg", "damping": 0.05},
    {"curvature": "ggn", "solver": uw.Solver("lanczos", rank=20), "damping": 0.05},
]


# Rank 20 of the convolutions leaves a residual of .5, and says so.
@pytest.mark.filterwarnings("ignore:the solver stopped")
@pytest.mark.parametrize("settings", WAYS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_perturb_is_the_derivative_of_the_inner_product_in_the_input(name, settings):
    given = trained(name)
    study = uw.Study(given.model, given.data, loss="cross_entropy", penalty=uw.L2(1e-3), **settings)
    found = study.perturb([3, 10], given.query)
    assert found.values.shape == (5, 2, *given.X.shape[1:])
    T = uw.rows(study.objective, given.query).dense()
    moved = study.fitted.row_inverse(5).solve(T).rows.double()  # tP, a query a row

    def product(place, x):
        loss = F.cross_entropy(given.model(x.unsqueeze(0)), given.y[place : place + 1])
        return -(moved @ plain_gradient(given.model, loss)) / len(given.X)

    for column, place in enumerate((3, 10)):
        x = given.X[place]
        for pixel in (9, 20, 35):
            step = torch.zeros(x.numel(), dtype=x.dtype)
            step[pixel] = STEP
            step = step.view(x.shape)
            expected = (product(place, x + step) - product(place, x - step)) / (2 * STEP)
            mine = found.values[:, column].reshape(5, -1)[:, pixel]
            scale = np.abs(found.values[:, column]).max()
            assert np.abs(mine - expected.numpy()).max() < 1e-5 * scale


@pytest.mark.parametrize("settings", WAYS[:1] + WAYS[3:4], ids=["ekfac", "block_cg"])
def test_a_perturbed_point_is_to_first_order_a_replaced_one(settings):
    given = trained("mlp")
    study = uw.Study(given.model, given.data, loss="cross_entropy", penalty=uw.L2(1e-3), **settings)
    move = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-5
    slope = study.perturb([3], given.query).values[:, 0] @ move.numpy()
    replaced = study.replace([3], (given.X[3:4] + move, given.y[3:4]), given.query, order="first").values[:, 0]
    assert relative(replaced, slope) < 1e-3
