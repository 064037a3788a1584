"""Groups left out of networks without a dense matrix: the Newton step on what remains, against that matrix written out."""

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from cases import classification
from networks import relative

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
GROUPS = [[0, 3, 7, 11], list(range(20, 34)), [5]]


def study_of(dtype=torch.float64, **settings):
    data = classification(n=60, p=6, m=5, classes=3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype).eval()
    settings = {"loss": "cross_entropy", "penalty": uw.L2(0.02), "damping": 0.05, "curvature": "ekfac"} | settings
    return uw.Study(model, (data.X, data.y), **settings), data


def terms_of(study, amounts):
    """Σ εg and Σ εJᵀΛJ, with the penalty's share, from Jacobians written out."""
    engine, o = study.fitted.engine, study.objective
    batch = o.examples.read(slice(0, 60))
    outputs, _ = engine.outputs(batch)
    J, p = engine.jacobian(batch).dense().double(), torch.softmax(outputs.double(), 1)
    curved = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    added = torch.einsum("n,nop,nox,nxq->pq", amounts, J, curved, J)
    share = study.fitted.share(float(amounts.sum()))
    gradient = engine.gradients(batch).dense().double().T @ amounts + share * study.fitted.penalty_gradient
    return gradient, added + share * torch.diag(o.penalty.diagonal)


def expected_moves(study, amounts):
    P = torch.linalg.inv(study.fitted.blocked.inverse.dense().double())
    found = []
    for row in amounts:
        gradient, added = terms_of(study, row)
        found.append(-torch.linalg.solve(P + added, gradient))
    return torch.stack(found)


def amounts_of(study):
    rows = torch.zeros(len(GROUPS), 60, dtype=torch.float64)
    for row, group in zip(rows, GROUPS, strict=True):
        row[group] = -study.objective.weights[group]
    return rows


@pytest.mark.parametrize("protocol", ["fixed_total", "fixed_mean"])
@pytest.mark.parametrize("curvature", ["ekfac", "kfac", "diagonal", "block_diagonal"])
def test_a_group_is_left_out_by_the_newton_step_on_what_remains(curvature, protocol):
    study, data = study_of(curvature=curvature, protocol=protocol, damping=0.3)
    moves = expected_moves(study, amounts_of(study))
    found = study.drop_group(GROUPS, measure="parameters", order="newton")
    assert relative(found.values.T, moves) < 1e-6
    queried = study.drop_group(GROUPS, data.query, measure="prediction", order="newton")
    J = study.fitted.engine.jacobian(tuple(map(torch.as_tensor, data.query))).dense()
    assert relative(queried.values, torch.einsum("mop,kp->mok", J, moves).flatten(0, 1)) < 1e-6
    assert queried.order == "newton" and "conjugate gradients" in queried.verdict


def test_any_weights_take_the_same_step():
    study, data = study_of()
    wanted = torch.rand(2, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 30
    found = study.reweight(wanted, measure="parameters", order="newton")
    assert relative(found.values.T, expected_moves(study, wanted - study.objective.weights)) < 1e-6
    unchanged = study.reweight(study.objective.weights.unsqueeze(0).numpy(), data.query, order="newton")
    assert not np.abs(unchanged.values).max() > 1e-12


@pytest.mark.parametrize("solver", ["block_cg", "lanczos"])
def test_iterative_solvers_equal_the_dense_gauss_newton_answer(solver):
    settings = {"curvature": "ggn", "protocol": "fixed_total"}
    dense, data = study_of(solver="cholesky", **settings)
    study, _ = study_of(solver=solver if solver == "block_cg" else uw.Solver(solver, rank=73, steps=73), **settings)
    for order in ("newton", "first"):
        truth = dense.drop_group(GROUPS, data.query, order=order).values
        assert relative(study.drop_group(GROUPS, data.query, order=order).values, truth) < 1e-6
    weights = np.linspace(0, 2 / 60, 60)[None]
    truth = dense.reweight(weights, data.query, order="newton").values
    assert relative(study.reweight(weights, data.query, order="newton").values, truth) < 1e-6


def test_a_group_of_one_is_a_point_and_first_order_is_a_sum():
    study, data = study_of(protocol="fixed_total")
    whole = study.drop(data.query, order="newton").values
    assert relative(study.drop_group([[5], [9]], data.query, order="newton").values, whole[:, [5, 9]]) < 1e-6
    first = study.drop(data.query, order="first").values
    total = np.stack([first[:, group].sum(1) for group in GROUPS], 1)
    assert relative(study.drop_group(GROUPS, data.query, order="first").values, total) < 1e-9


def test_what_leaves_nothing_positive_definite_stays_at_first_order_and_says_so():
    study, data = study_of(damping=1e-4, penalty=None)
    most = [list(range(58)), [1]]
    P = torch.linalg.inv(study.fitted.blocked.inverse.dense())
    rows = torch.zeros(2, 60, dtype=torch.float64)
    for row, group in zip(rows, most, strict=True):
        row[group] = -1 / 60
    lowest = [float(torch.linalg.eigvalsh(P + terms_of(study, row)[1])[0]) for row in rows]
    assert lowest[0] < 0 < lowest[1]
    with pytest.warns(uw.errors.ApproximationWarning, match=r"1 of 2 changes stay at first order"):
        found = study.drop_group(most, data.query, measure="prediction", order="newton")
    first = study.drop_group(most, data.query, measure="prediction", order="first").values
    assert relative(found.values[:, 0], first[:, 0]) < 1e-9
    assert relative(found.values[:, 1], first[:, 1]) > 1e-3


def test_single_precision_networks_are_solved_for_too():
    exact, data = study_of()
    study, _ = study_of(torch.float32)
    a, b = (one.drop_group(GROUPS, data.query, order="newton").values for one in (study, exact))
    assert relative(a, b) < 1e-3


def test_the_hessian_of_a_network_is_refused_for_what_remains():
    study, data = study_of(curvature="hessian", solver="lanczos", damping=0.5)
    with pytest.raises(uw.errors.ConfigError, match=r"found curvature='hessian'.*Expected curvature='ggn'"):
        study.drop_group(GROUPS, data.query, order="newton")


def test_a_ridge_filter_leaves_groups_out_as_the_same_damping_does():
    by_number, data = study_of(curvature="ekfac", damping=0.5)
    by_filter, _ = study_of(curvature="ekfac", damping=uw.Ridge(0.5))
    a, b = (study.drop_group(GROUPS, data.query, order="newton").values for study in (by_number, by_filter))
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-10)
