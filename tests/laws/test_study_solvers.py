"""Every solver of a network's exact curvature, asked through a study, against Cholesky of the matrix written out."""

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from cases import classification, pearson, slope
from upweight.curvature.most_curved import most_curved
from upweight.curvature.products import curvature_products, root_rows
from upweight.fitted.settings import STRUCTURED
from upweight.fitted.solvers import ITERATIVE, PRECONDITIONERS

pytestmark = [
    pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore:the solver stopped:upweight.errors.ApproximationWarning"),
]
SETTINGS = {"loss": "cross_entropy", "curvature": "ggn", "protocol": "fixed_total", "penalty": 1e-2, "damping": 2e-2}


def problem(dtype=torch.float64):
    data = classification(n=60, p=6, m=5, classes=3)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype).eval(), data


def study_with(solver, **changes):
    model, data = problem()
    return uw.Study(model, (data.X, data.y), solver=solver, **SETTINGS | changes), data


def truth():
    study, data = study_with("cholesky")
    return study.upweight(data.query).values


@pytest.mark.parametrize(
    ("solver", "limit"),
    [
        ("block_cg", 1e-6),
        (uw.Solver("block_cg", tolerance=1e-10), 1e-9),
        *((uw.Solver("block_cg", precondition=name), 1e-6) for name in PRECONDITIONERS),
        ("woodbury", 1e-10),
        (uw.Solver("lanczos", rank=73, steps=73), 1e-8),
        (uw.Solver("nystrom", rank=73), 1e-6),
    ],
)
def test_solvers_that_are_exact_equal_cholesky(solver, limit):
    study, data = study_with(solver)
    found = study.upweight(data.query)
    assert study.objective.space.size == 73
    assert np.linalg.norm(found.values - truth()) <= limit * np.linalg.norm(truth())
    assert "Gauss-Newton" in found.verdict and "damping 0.02" in found.verdict


@pytest.mark.parametrize(
    "solver", [uw.Solver("lissa", steps=4000, minibatch=20), uw.Solver("astra", steps=600, minibatch=20)]
)
def test_stochastic_series_come_close_in_slope_and_rank(solver):
    study, data = study_with(solver)
    found = study.upweight(data.query)
    assert pearson(found.values, truth()) > 0.995
    assert 0.95 < slope(found.values, truth()) < 1.05
    assert solver.name[:2].lower() in found.verdict.lower() and "residual" in found.verdict


def test_every_structured_curvature_can_precondition():
    assert set(STRUCTURED) - {"identity"} <= set(PRECONDITIONERS)


def test_astra_needs_fewer_steps_than_lissa_for_the_same_error():
    errors = {}
    for name in ("lissa", "astra"):
        study, data = study_with(uw.Solver(name, steps=150, minibatch=60), damping=1e-3)
        found = study.upweight(data.query).values
        reference, _ = study_with("cholesky", damping=1e-3)
        exact = reference.upweight(data.query).values
        errors[name] = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert errors["astra"] < errors["lissa"] / 2


def test_a_low_rank_that_leaves_much_out_says_so():
    study, data = study_with(uw.Solver("lanczos", rank=5))
    with pytest.warns(uw.errors.ApproximationWarning, match="stopped at a relative residual"):
        found = study.upweight(data.query)
    assert "rank 5 of 73" in found.verdict and "unconverged" in found.verdict


def test_lanczos_takes_the_hessian_too():
    study, data = study_with(uw.Solver("lanczos", rank=73, steps=73), curvature="hessian", damping=0.5)
    exact, _ = study_with("cholesky", curvature="hessian", damping=0.5)
    np.testing.assert_allclose(study.upweight(data.query).values, exact.upweight(data.query).values, rtol=1e-6)


def test_a_scale_that_must_diverge_is_refused_before_the_loop():
    study, data = study_with(uw.Solver("lissa", scale=1e-3))
    with pytest.raises(uw.errors.ConfigError, match=r"scale=0.001.*Expected"):
        study.upweight(data.query)


@pytest.mark.parametrize("name", ["block_cg", "woodbury"])
def test_solvers_of_positive_matrices_refuse_the_hessian_of_a_network(name):
    study, data = study_with(name, curvature="hessian")
    with pytest.raises(uw.errors.ConfigError, match=r"curvature='hessian' of a network.*Expected curvature='ggn'"):
        study.upweight(data.query)


@pytest.mark.parametrize("name", ITERATIVE)
def test_auto_curvature_is_gauss_newton_with_a_solver_that_iterates(name):
    study, _ = study_with(name, curvature="auto")
    assert study.fitted.kind == "ggn"


@pytest.mark.parametrize("name", ITERATIVE)
def test_blocks_take_no_iterative_solver(name):
    with pytest.raises(uw.errors.ConfigError, match="inverted block by block"):
        study_with(name, curvature="ekfac")


@pytest.mark.parametrize("name", ["lissa", "woodbury"])
def test_linear_models_have_cheaper_exact_solvers(name):
    data = classification(n=60, p=6, m=5, classes=3)
    study = uw.Study(nn.Linear(6, 3).double().eval(), (data.X, data.y), loss="cross_entropy", penalty=0.1, solver=name)
    with pytest.raises(uw.errors.ConfigError, match="linear in its parameters"):
        study.upweight(data.query)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: uw.Solver("gmres"), "unknown. Expected one of"),
        (lambda: uw.Solver("block_cg", rank=3), "no use for. Expected steps or tolerance"),
        (lambda: uw.Solver("woodbury", steps=3), "Expected no option"),
        (lambda: uw.Solver("lissa", steps=0), "above zero"),
        (lambda: uw.Solver("lissa", steps=2.5), "a whole number above zero"),
        (lambda: uw.Solver("lanczos", rank=True), "a whole number above zero"),
        (lambda: uw.Solver("block_cg", tolerance=float("inf")), "above zero"),
        (lambda: uw.Solver("block_cg", precondition="jacobi"), "Expected one of curved, ekfac, kfac"),
    ],
)
def test_solver_options_that_cannot_be_meant_are_refused(make, words):
    with pytest.raises(uw.errors.ConfigError, match=words):
        make()


def test_too_few_steps_are_an_error_and_not_a_number():
    study, data = study_with(uw.Solver("block_cg", steps=1, tolerance=1e-10, precondition="none"))
    with pytest.raises(uw.errors.NotConverged, match="after 1 steps"):
        study.upweight(data.query)


def test_what_stands_in_for_an_iterated_curvature_is_said_aloud():
    study, _ = study_with("block_cg")
    blocks, _ = study_with("auto", curvature="ekfac", damping=study.fitted.blocked.damping)
    for ask in (lambda one: one.leverage(), lambda one: one.self_influence()):
        with pytest.warns(uw.errors.ApproximationWarning, match="EK-FAC stands in"):
            found = ask(study)
        np.testing.assert_allclose(found, ask(blocks), rtol=1e-10)
    assert "block conjugate gradients" in str(study.trust())


@pytest.mark.parametrize("solver", ["woodbury", uw.Solver("lanczos", rank=73, steps=73), uw.Solver("nystrom", rank=73)])
def test_points_own_questions_of_a_matrix_at_hand_are_exact(solver):
    study, data = study_with(solver)
    exact, _ = study_with("cholesky")
    for ask in (
        lambda one: one.leverage(),
        lambda one: one.self_influence(),
        lambda one: one.drop(data.query, order="newton").values,
    ):
        np.testing.assert_allclose(ask(study), ask(exact), rtol=1e-5, atol=1e-9)


def steps_of(verdict):
    return int(verdict.split(" iterations")[0].split()[-1])


def test_the_rows_that_bend_most_save_two_thirds_of_the_steps():
    steps = {}
    for name in ("curved", "none"):
        study, data = study_with(uw.Solver("block_cg", precondition=name, tolerance=1e-6), damping=1e-5, penalty=None)
        one = (data.query[0][:1], data.query[1][:1])
        steps[name] = steps_of(study.upweight(one).verdict)
    assert steps["curved"] <= steps["none"] / 3


@pytest.mark.parametrize("name", ["linear", "conv2d", "attention", "tied", "layer norm", "embedding"])
@pytest.mark.parametrize("most", [5, 10_000])
def test_the_preconditioner_is_the_inverse_of_the_longest_rows_and_the_level(name, most):
    from test_structured import study_of

    study, _ = study_of(name, "ggn")
    products = curvature_products(study.fitted.engine, "ggn", 0.3, torch.float64)
    found = most_curved(products, most)
    eye = torch.eye(products.size, dtype=torch.float64)
    kept = found.rows.dense()[:, 0]
    twin = torch.linalg.inv(kept.T @ kept + found.level * eye)
    torch.testing.assert_close(found(eye), twin, rtol=1e-7, atol=1e-9)
    whole = sum(float(block.dense().square().sum()) for block in root_rows(study.fitted.engine).tiles())
    assert found.share == pytest.approx(float(kept.square().sum()) / whole)
    assert len(kept) >= most or found.share == pytest.approx(1.0)


def test_measures_over_a_set_and_parameters_take_the_solver_that_was_asked_for():
    iterated, data = study_with("block_cg")
    exact, _ = study_with("cholesky")
    for ask in (
        lambda study: study.drop(
            data.query, measure=lambda outputs, targets: outputs.square().mean(), aggregate="set", order="first"
        ),
        lambda study: study.drop(measure="parameters", which=[0, 3], order="first"),
    ):
        a, b = ask(iterated), ask(exact)
        np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=1e-9)
        assert "block conjugate gradients" in a.verdict


def test_a_stand_in_is_called_one():
    study, data = study_with("block_cg")
    found = study.drop(data.query, order="newton")
    assert "ekfac" in found.verdict and "in place of the ggn that is only iterated" in found.verdict
    assert any("EK-FAC's" in note for note in study.trust().notes)


@pytest.mark.parametrize("order", ["first", "newton"])
def test_another_penalty_under_blocks_equals_the_dense_twin(order):
    study, data = study_with("auto", curvature="ekfac")
    found = study.change_penalty(uw.L2(0.05), data.query, order=order, measure="prediction").values[:, 0]
    theta, change = study.objective.theta.double(), 0.04
    F = torch.linalg.inv(study.fitted.blocked.inverse.dense().double())
    if order == "newton":
        F = F + change * torch.eye(len(F), dtype=torch.float64)
    move = -torch.linalg.solve(F, change * theta)
    rows = torch.cat([study.fitted.engine.jacobian(tuple(map(torch.as_tensor, data.query))).dense()]).flatten(0, 1)
    np.testing.assert_allclose(found, (rows @ move).numpy(), rtol=1e-5, atol=1e-7)


def test_what_did_not_converge_warns_and_stays_marked():
    study, data = study_with(uw.Solver("lissa", steps=3, tolerance=1e-6))
    with pytest.warns(uw.errors.ApproximationWarning, match="stopped at a relative residual"):
        found = study.upweight(data.query)
    assert "unconverged" in found.verdict


def test_blocks_take_no_solver_at_all_and_cholesky_means_the_exact_matrix():
    with pytest.raises(uw.errors.ConfigError, match="inverted block by block"):
        study_with("cholesky", curvature="ekfac")
    study, data = study_with("cholesky", curvature="auto", memory=20_000)
    with pytest.raises(uw.errors.BudgetError, match="exact Hessian"):
        study.upweight(data.query)


def test_no_damping_and_zero_damping_are_one_thing():
    (a, data), (b, _) = (study_with("auto", curvature="ekfac", damping=value) for value in (None, 0.0))
    np.testing.assert_array_equal(a.upweight(data.query).values, b.upweight(data.query).values)


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
@pytest.mark.parametrize(
    "ask",
    [
        lambda study, data: study.upweight(data.query),
        lambda study, data: study.drop_group([[0, 1]], data.query, order="first"),
        lambda study, data: study.perturb([0], data.query),
    ],
)
def test_no_question_passes_an_unconverged_answer_on_in_silence(ask):
    study, data = study_with(uw.Solver("lanczos", rank=2, steps=8))
    with pytest.warns(uw.errors.ApproximationWarning, match="stopped at a relative residual"):
        ask(study, data)
