"""Refusals of the arithmetic, and the roads that are taken only when something is off."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from torch import nn

import upweight as uw
from cases import classification, fit, fitted_mlp, mlp, pearson, regression, slope
from test_bad_input import X, Y, linear, refused, study
from upweight.evaluate.calibration import Calibration
from upweight.evaluate.refit import refit
from upweight.objective.data import Chosen
from upweight.questions.question import Question

E = uw.errors
ce = nn.CrossEntropyLoss(reduction="none")


def logistic(**settings) -> tuple[uw.Study, tuple]:
    data = classification(n=80, classes=3)
    fitted = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(data.X, data.y)
    return uw.from_sklearn(fitted, data.X, data.y, **settings), data.query


def test_a_singular_general_matrix_and_a_diagonal_with_a_zero_have_no_inverse():
    singular = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    with refused(E.IndefiniteCurvature, "smallest pivot", "add damping"):
        uw.inverse(uw.linop.Dense(singular))
    with refused(E.IndefiniteCurvature, "an eigenvalue of 0", "add damping"):
        uw.inverse(uw.linop.Diagonal(torch.tensor([1.0, 0.0])))


def test_a_group_without_which_nothing_is_determined_is_refused_by_name():
    data = regression(n=6, p=4)
    line = uw.from_sklearn(Ridge(alpha=1e-300, fit_intercept=False).fit(data.X, data.y), data.X, data.y)
    with refused(E.IndefiniteCurvature, "group 0 is left out", "order='first'"):
        line.drop_group([[0, 1, 2, 3]], data.query, order="newton")


def test_newton_steps_are_of_the_exact_hessian_only():
    with refused(E.ConfigError, "newton_step", "exact Hessian"):
        study(curvature="ggn").newton_step(0, 0.1)


def test_two_newton_steps_are_for_groups_of_linear_models():
    soft, query = logistic()
    with refused(E.ConfigError, "two_newton", "drop_group"):
        soft.drop(query, order="two_newton")
    _, problem, net = fitted_mlp()
    with refused(E.ConfigError, "two_newton", "not linear"):
        net.drop_group([[0]], problem.query, order="two_newton")
    assert soft.drop_group([[0, 1]], query).order == "two_newton"
    assert soft.drop_group([[0, 1]], query, order="newton").order == "newton"


def test_measures_over_a_set_must_have_a_meaning():
    soft, (Xt, _) = logistic()
    with refused(E.ConfigError, "auc", "3 outputs"):
        soft.drop((Xt, [0, 1, 0, 1]), measure="auc")
    with refused(E.ShapeError, "set measure", "one number"):
        soft.drop((Xt, [0, 1, 0, 1]), measure=lambda f, y: f, aggregate="set")
    with refused(E.ConfigError, "perturb", "differentiable"):
        soft.perturb([0], (Xt, [0, 1, 0, 1]), measure="accuracy")
    data = classification(n=40)
    binary = uw.from_sklearn(LogisticRegression(tol=1e-10).fit(data.X, data.y), data.X, data.y)
    with refused(E.ConfigError, "auc", "one class only"):
        binary.drop((data.Xt, np.zeros(4, int)), measure="auc")


def test_a_refit_that_does_not_arrive_says_how_far_it_came(monkeypatch):
    _, _, net = fitted_mlp()
    weights = net.fitted.weights.clone()
    weights[0] = 0
    monkeypatch.setattr("upweight.evaluate.refit.ATTEMPTS", 0)
    with refused(E.NotConverged, "‖∇Q‖", "pass train="):
        refit(net.fitted, weights)


def test_a_refit_from_far_away_walks_through_indefinite_curvature():
    model, problem, net = fitted_mlp()
    start = torch.randn(len(net.objective.theta), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = refit(net.fitted, net.fitted.weights, start=3 * start)
    with torch.no_grad():
        for p, value in zip(model.parameters(), net.objective.space.unflatten(found).values(), strict=True):
            p.copy_(value)
    losses = ce(model(torch.as_tensor(problem.X)), torch.as_tensor(problem.y)).mean()
    value = losses + 0.025 * sum(p.square().sum() for p in model.parameters())
    slopes = torch.autograd.grad(value, list(model.parameters()))
    assert max(float(g.abs().max()) for g in slopes) < 1e-9


def test_a_refit_whose_curvature_no_damping_mends_is_refused(monkeypatch):
    _, _, net = fitted_mlp()
    weights = net.fitted.weights.clone()
    weights[0] = 0

    def never(*args):
        raise E.IndefiniteCurvature("never")

    monkeypatch.setattr("upweight.evaluate.refit.inverse", never)
    with refused(E.NotConverged, "no damping", "extreme outputs"):
        refit(net.fitted, weights)


@pytest.mark.parametrize("loss", ["cross_entropy", "callable"])
def test_block_cg_is_exact_where_the_curvature_is_thin_and_refused_elsewhere(loss):
    """A callable's Λ has off-diagonal terms that no thin form holds: it must not be solved for without them."""
    data = classification(n=90, p=4, classes=3)
    model = fit(nn.Linear(4, 3).double().eval(), data.X, data.y, ce, np.full(90, 1 / 90), 0.1, steps=3)
    form = (
        "cross_entropy" if loss == "cross_entropy" else lambda f, y: nn.functional.cross_entropy(f, y, reduction="none")
    )
    dense = uw.Study(model, (data.X, data.y), loss=form, penalty=0.1, solver="cholesky").upweight(data.query)
    iterative = uw.Study(model, (data.X, data.y), loss=form, penalty=0.1, solver="block_cg")
    if loss == "callable":
        with refused(E.ConfigError, "thin form", "solver='cholesky'"):
            iterative.upweight(data.query)
        automatic = uw.Study(model, (data.X, data.y), loss=form, penalty=0.1, memory=1)
        with refused(E.BudgetError, "p = 15"):
            automatic.upweight(data.query)
        return
    found = iterative.upweight(data.query)
    np.testing.assert_allclose(found.values, dense.values, rtol=1e-5, atol=1e-7)
    assert "block conjugate gradients" in found.verdict and "iterations" in found.verdict


@pytest.mark.parametrize("measure", ["loss", "logit"])
def test_block_cg_projects_the_softmax_gauge_out_and_says_so(measure):
    """scikit-learn's free intercepts: a logit's row lies partly along the shift that changes no probability."""
    exact, query = logistic(solver="cholesky")
    iterative, _ = logistic(solver="block_cg")
    found = iterative.upweight(query, measure=measure)
    np.testing.assert_allclose(found.values, exact.upweight(query, measure=measure).values, rtol=1e-5, atol=1e-6)
    assert "1 gauge direction projected out" in found.verdict


def test_the_same_question_takes_the_same_road_whatever_was_asked_before():
    first, query = logistic()
    second, _ = logistic()
    second.drop(query), second.leverage()
    assert first.upweight(query).verdict == second.upweight(query).verdict


def test_damping_is_reported_in_its_own_units_and_in_mean_eigenvalues():
    damped = study(damping=0.25)
    with pytest.warns(E.NotStationaryWarning):
        effects = damped.upweight((X, Y))
    mean = float(damped.fitted.exact.curvature.matrix.diagonal().mean())
    assert f"damping 0.25 ({0.25 / mean:.2g} of the mean eigenvalue)" in effects.verdict


def test_a_small_group_of_leverage_one_falls_back_with_its_penalty_share():
    """The Woodbury system has no solution, the retained matrix has: the share of the penalty must not be lost on the way."""
    data = classification(n=30, p=20, classes=2, seed=3)
    model = fit(
        nn.Linear(20, 1).double().eval(),
        data.X,
        data.y[:, None].astype(float),
        lambda f, y: nn.functional.binary_cross_entropy_with_logits(f, y, reduction="none").squeeze(1),
        np.full(30, 1 / 30),
        0.01,
        steps=3,
    )
    mean = uw.Study(model, (data.X, data.y[:, None].astype(float)), loss="binary_cross_entropy", penalty=0.01)
    query = (data.Xt, data.yt[:, None].astype(float))
    small = mean.drop_group([[3]], query, order="newton").values
    np.testing.assert_allclose(small, mean.drop(query, which=[3], order="newton").values, rtol=1e-8)


def test_a_ggn_study_leaves_groups_out_of_its_own_matrix():
    _, problem, net = fitted_mlp(n=120, penalty=0.02)
    ggn = uw.Study(net.objective.model, net.objective.examples, loss="cross_entropy", penalty=0.02, curvature="ggn")
    one = ggn.drop(problem.query, which=range(0, 120, 9)).values
    groups = ggn.drop_group([[i] for i in range(0, 120, 9)], problem.query).values
    np.testing.assert_allclose(groups, one, rtol=1e-7, atol=1e-12)
    assert pearson(net.drop(problem.query, which=range(0, 120, 9)).values, one) > 0.95
    assert 0.7 < slope(net.drop(problem.query, which=range(0, 120, 9)).values, one) < 1.4


def test_a_bare_penalty_acts_where_the_penalty_acts_now():
    data = regression()
    line = uw.from_sklearn(Ridge(alpha=2.0).fit(data.X, data.y), data.X, data.y)
    again = Ridge(alpha=4.0).fit(data.X, data.y)
    found = line.change_penalty(4.0 / 40, data.query, measure="prediction").values[:, 0]
    np.testing.assert_allclose(
        found, again.predict(data.Xt) - Ridge(alpha=2.0).fit(data.X, data.y).predict(data.Xt), atol=1e-10
    )


def test_several_penalties_add_up_in_a_study():
    both = study(penalty=[uw.L2(0.3, on="weight"), uw.L2(0.2)])
    assert both.objective.penalty.diagonal.tolist() == [0.5] * 6 + [0.2] * 2
    assert both.objective.penalty.value(torch.ones(8, dtype=torch.float64)) == pytest.approx(0.5 * (6 * 0.5 + 2 * 0.2))
    with refused(E.ConfigError, "penalty='much'", "uw.L2"):
        study(penalty="much")


def test_check_can_compare_the_parameters_themselves():
    data = regression()
    line = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    found = line.check(None, measure="parameters", refits=6)
    assert found.slope == pytest.approx(1, abs=1e-8) and found.relative_error < 1e-8


def test_trust_speaks_up_where_no_answer_can_be_had_and_where_training_is_not_done():
    problem = classification(n=40, p=3, classes=3)
    model = mlp(3, 4, 3, 0)
    with pytest.warns(E.NotStationaryWarning):
        raw = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.5))
        raw.self_influence()
    assert any("would move the outputs" in concern for concern in raw.trust().concerns)
    bare = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(1e-4))
    assert bare.trust().hessian_floor < 0 < bare.trust().lowest_curvature
    assert any("the Hessian is not positive definite" in concern for concern in bare.trust().concerns)
    asked = uw.Study(
        model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(1e-4), curvature="hessian"
    ).trust()
    assert asked.lowest_curvature < 0
    assert any("no answer without more damping" in concern for concern in asked.concerns)


def test_a_report_says_what_its_own_refits_say(tmp_path):
    predicted = np.array([[0.1, -0.2, 0.3]])
    wrong = Calibration(predicted, 2 * predicted + 0.5 * predicted[:, ::-1], np.arange(1), np.arange(3), "loss", "nats")
    right = Calibration(predicted, predicted * 1.01, np.arange(1), np.arange(3), "loss", "nats")
    assert right.concerns == [] and "Beware" not in repr(right)
    assert "do not follow the predictions" in wrong.concerns[0] and "Beware" in repr(wrong)
    net = fitted_mlp()[2]
    net.report(tmp_path / "page.html", calibration=wrong)
    assert "do not follow the predictions" in (tmp_path / "page.html").read_text("utf-8")


def test_a_float32_softmax_without_a_penalty_has_its_gauge_projected_out():
    data = classification(n=200, p=3, classes=3)
    model = fit(nn.Linear(3, 3).double().eval(), data.X, data.y, ce, np.full(200, 1 / 200), 1e-3, steps=3).float()
    found = uw.Study(model, (data.X, data.y), loss="cross_entropy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "4 gauge directions projected out" in found.drop(data.query).verdict


def test_two_newton_steps_keep_the_protocol_s_share_of_the_penalty():
    data = classification(n=80, p=10, classes=2, seed=3)
    y = data.y[:, None].astype(float)

    def bce(f, t):
        return nn.functional.binary_cross_entropy_with_logits(f, t, reduction="none").squeeze(1)

    def fitted_line(weights, penalty):
        return fit(nn.Linear(10, 1).double().eval(), data.X, y, bce, weights, penalty, steps=3)

    even = np.full(80, 1 / 80)
    model = fitted_line(even, 0.1)
    found = uw.Study(model, (data.X, y), loss="binary_cross_entropy", penalty=0.1, protocol="fixed_mean")
    effects = found.drop_group([list(range(30))], (data.Xt, data.yt[:, None].astype(float)), measure="prediction")
    kept = even.copy()
    kept[:30] = 0
    again = fitted_line(kept, 0.1 * 50 / 80)
    true = (again(torch.as_tensor(data.Xt)) - model(torch.as_tensor(data.Xt))).detach().numpy()[:, 0]
    np.testing.assert_allclose(effects.values[:, 0], true, rtol=0.02, atol=1e-3 * np.abs(true).max())


def test_the_first_order_of_another_penalty_is_its_derivative():
    data = regression()
    line = uw.from_sklearn(Ridge(alpha=2.0, fit_intercept=False).fit(data.X, data.y), data.X, data.y)
    step = 1e-6
    found = line.change_penalty((2.0 + step) / 40, data.query, measure="prediction", order="first").values[:, 0]
    sides = [Ridge(alpha=2.0 + s, fit_intercept=False).fit(data.X, data.y).predict(data.Xt) for s in (step, -step)]
    np.testing.assert_allclose(found, (sides[0] - sides[1]) / 2, rtol=1e-4)


def test_a_penalty_given_to_an_unpenalised_fit_spares_the_intercept():
    data = regression()
    line = uw.from_sklearn(LinearRegression().fit(data.X, data.y), data.X, data.y)
    found = line.change_penalty(3.0 / 40, data.query, measure="prediction").values[:, 0]
    expected = Ridge(alpha=3.0).fit(data.X, data.y).predict(data.Xt) - LinearRegression().fit(data.X, data.y).predict(
        data.Xt
    )
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_balanced_class_weights_count_sample_weights():
    data = classification(n=120, classes=3)
    weight = np.random.default_rng(0).uniform(0.2, 3, 120)
    chosen = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=5000)
    found = uw.from_sklearn(chosen.fit(data.X, data.y, sample_weight=weight), data.X, data.y, sample_weight=weight)
    assert found.fitted.stationarity.ratio < 1e-4


def test_an_added_point_that_lowers_the_loss_is_helpful():
    data = regression()
    line = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    effects = line.add((data.Xt, data.yt), (data.Xt[:1], data.yt[:1]))
    assert effects.values[0, 0] < 0 and effects.helpful(1)["effect"].item() == effects.values.min()


def test_accuracy_of_three_classes_and_of_several_labels_counts_what_is_right():
    soft, (Xt, yt) = logistic()
    measured = Question(soft.fitted, (Xt, yt), "accuracy").measured
    outputs = measured.outputs
    assert float(measured.at_outputs(outputs)) == pytest.approx(
        float((outputs.argmax(1) == torch.as_tensor(yt)).double().mean())
    )
    assert float(measured.at_outputs(-outputs)) != float(measured.at_outputs(outputs))
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    model = linear(outputs=3)
    many = uw.Study(model, (X[:2], labels), loss="binary_cross_entropy", penalty=0.5)
    right = ((model(X[:2]) > 0) == (labels > 0.5)).double().mean().item()
    assert float(
        Question(many.fitted, (X[:2], labels), "accuracy").measured.at_outputs(model(X[:2]).detach())
    ) == pytest.approx(right)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "label" not in many.mislabeled(2)
        with refused(E.ConfigError, "auc", "3 outputs"):
            many.drop((X[:2], labels), measure="auc")
        with refused(E.ConfigError, "0.5", "soft targets"):
            many.drop((X[:2], labels * 0.5), measure="margin")


def test_the_newton_estimand_of_a_network_uses_its_whole_hessian_to_first_order():
    """gᵢ − Hᵢs with the example's exact Hessian, beyond what passes through the outputs."""
    model = mlp(3, 4, 3, 0)
    problem = classification(n=20, p=3, classes=3)
    net = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=0.5, protocol="fixed_total")
    s, H = net.fitted.pending, net.fitted.exact.curvature.matrix
    with pytest.warns(E.NotStationaryWarning):
        found = net.drop(problem.query, order="newton", estimand="newton", measure="prediction", which=[2, 9])
    for column, i in enumerate([2, 9]):
        one = Chosen(net.objective.examples, np.asarray([i]))
        unit = torch.ones(1, dtype=torch.float64)
        g, h = net.fitted.engine.gradient(unit, examples=one), net.fitted.engine.hessian(one, unit)
        outputs, targets, jacobian = net.fitted.engine.linearised(one.read(slice(0, 1)))
        J, curve = jacobian.dense()[0], net.objective.loss.hessian(outputs, targets)[0]
        move = torch.linalg.solve(H - J.T @ curve @ J / 20, (g - h @ s) / 20)
        shifts = net.fitted.engine.jacobian((torch.as_tensor(problem.Xt), torch.as_tensor(problem.yt))).dense() @ move
        np.testing.assert_allclose(found.values[:, column], shifts.flatten(), rtol=1e-8, atol=1e-12)


def test_scales_of_columns_do_not_make_a_matrix_singular_but_duplicates_are_warned_of():
    data = regression()
    far = data.X.copy()
    far[:, 0] = 1.7e9 + 1e6 * far[:, 0]
    found = uw.from_sklearn(Ridge(solver="svd").fit(far, data.y), far, data.y)
    again = Ridge(solver="svd").fit(far[1:], data.y[1:])
    expected = again.predict(far[:3]) - Ridge(solver="svd").fit(far, data.y).predict(far[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = found.drop((far[:3], data.y[:3]), which=0, measure="prediction").values[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    twin = np.column_stack([data.X, data.X[:, 0] + 1e-6 * np.random.default_rng(0).standard_normal(40)])
    with pytest.warns(E.ApproximationWarning, match="near-duplicate column"):
        uw.from_sklearn(LinearRegression(tol=1e-12).fit(twin, data.y), twin, data.y).drop((twin[:2], data.y[:2]))


def test_a_check_in_which_nothing_moves_has_no_slope_and_does_not_break():
    flat = Calibration(np.zeros((1, 3)), np.zeros((1, 3)), np.arange(1), np.arange(3), "accuracy", "share")
    assert np.isnan(flat.slope) and np.isnan(flat.pearson) and "nan" in repr(flat)
    data = regression()
    line = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    with refused(E.ConfigError, "NoneType", "state_dict"):
        line.check(data.query, refits=2, train=lambda weights, seed: None)
    with refused(E.ConfigError, "k=-1"):
        line.mislabeled(-1)


def test_taking_a_softmax_s_penalty_away_leaves_its_gauge_and_not_a_singular_matrix():
    data = classification(n=200, p=3, classes=3)
    fitted = LogisticRegression(C=0.05, tol=1e-10, max_iter=5000).fit(data.X, data.y)
    free = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(data.X, data.y)
    found = uw.from_sklearn(fitted, data.X, data.y).change_penalty(0.0, data.query, measure="probability").values[:, 0]
    rows = np.arange(4), data.yt
    true = free.predict_proba(data.Xt)[rows] - fitted.predict_proba(data.Xt)[rows]
    assert pearson(true, found) > 0.99 and 0.8 < slope(true, found) < 1.2
