"""A layer that no training point reaches takes no part, and is named."""

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw


class WithUnused(nn.Module):
    """Two layers, and a third that the forward never calls."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.unused = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, X):
        return self.last(torch.tanh(self.first(X)))


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    X = torch.randn(60, 4, generator=generator)
    return WithUnused().eval(), (X, (X[:, 0] > 0).long()), (X[:3] + 0.1, torch.tensor([0, 1, 0]))


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
@pytest.mark.parametrize("curvature", ["ekfac", "kfac", "diagonal", "block_diagonal"])
@pytest.mark.parametrize("damping", ["auto", uw.Ridge(0.1, relative=True)])
def test_a_layer_without_gradients_changes_nothing_and_is_named(problem, curvature, damping):
    model, train, query = problem
    whole = uw.Study(model, train, loss="cross_entropy", curvature=curvature, damping=damping)
    reached = uw.Study(
        model, train, loss="cross_entropy", curvature=curvature, damping=damping, parameters=["first.*", "last.*"]
    )
    found = whole.drop(query)
    assert "unused left out, which no training point reaches" in found.verdict
    np.testing.assert_allclose(found.values, reached.drop(query).values, rtol=1e-6)
    np.testing.assert_allclose(whole.self_influence(), reached.self_influence(), rtol=1e-6)
    groups = [[0, 1, 2], range(10, 20)]
    np.testing.assert_allclose(
        whole.drop_group(groups, query).values, reached.drop_group(groups, query).values, rtol=1e-4, atol=1e-7
    )


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
def test_with_a_number_for_damping_it_is_damped_like_the_rest(problem):
    model, train, query = problem
    found = uw.Study(model, train, loss="cross_entropy", curvature="ekfac", damping=1e-2).drop(query)
    assert "left out" not in found.verdict and "inf" not in found.verdict
