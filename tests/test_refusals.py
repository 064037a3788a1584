"""Refusals of the arithmetic and of odd forms of data, and the roads that are taken only when something is off."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import upweight as uw
from cases import classification, fit, fitted_mlp, mlp, pearson, regression, slope
from test_bad_input import X, Y, linear, refused, study
from upweight.evaluate.calibration import Calibration
from upweight.evaluate.refit import refit

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
    with refused(E.IndefiniteCurvature, "diagonal curvature", "add damping"):
        uw.inverse(uw.linop.Diagonal(torch.tensor([1.0, 0.0])))


def test_a_group_without_which_nothing_is_determined_is_refused_by_name():
    data = regression(n=6, p=4)
    line = uw.from_sklearn(Ridge(alpha=1e-300, fit_intercept=False).fit(data.X, data.y), data.X, data.y)
    with refused(E.IndefiniteCurvature, "group 0 is left out", "order='first'"):
        line.drop_group([[0, 1, 2, 3]], data.query, order="newton")


def test_newton_steps_are_of_the_exact_undamped_hessian_only():
    for settings in ({"curvature": "ggn"}, {"damping": 0.1}):
        with refused(E.ConfigError, "newton_step", "exact Hessian without damping"):
            study(**settings).newton_step(0, 0.1)


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


def test_shapes_that_cross_entropy_cannot_read_are_refused():
    with refused(E.ShapeError, "binary_cross_entropy"):
        study(linear(outputs=1))
    with refused(E.ShapeError, "one label an example"):
        study(data=(X, torch.stack([Y, Y], 1)))


def test_parameters_of_two_types_and_a_model_elsewhere_are_refused():
    model = nn.Sequential(nn.Linear(3, 3).double(), nn.Linear(3, 2))
    with refused(E.ModelError, "torch.float32, torch.float64", "one floating-point type"):
        study(model.eval())
    with refused(E.ConfigError, "device='meta'", "call model.to"):
        study(device="meta")


def test_data_of_unknown_form_is_refused():
    with refused(E.InputError, "ndarray", "(X, y)"):
        study(data=np.zeros((3, 3)))
    with refused(E.EmptyDataset, "empty"):
        study(data={"a": torch.zeros(0, 3)}, forward=lambda m, b: (m(b["a"]), b["a"]))
    with refused(E.ConfigError, "which= is empty"):
        study().drop((X, Y), which=[])


class Unsized(torch.utils.data.Dataset):
    def __getitem__(self, place):
        return X[place], Y[place]


def test_a_dataset_without_a_length_is_refused():
    with refused(E.OrderError, "without a length"):
        study(data=Unsized())


def test_an_estimator_with_coefficients_that_are_not_finite_is_refused():
    data = regression()
    fitted = Ridge().fit(data.X, data.y)
    fitted.coef_ = fitted.coef_ * np.nan
    with refused(E.NonFiniteInput, "coefficients", "fit it again"):
        uw.from_sklearn(fitted, data.X, data.y)


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
    mean = float(damped.fitted.curvature.matrix.diagonal().mean())
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


def test_column_targets_of_a_regression_are_read_as_one_output():
    data = regression()
    flat = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    column = uw.from_sklearn(Ridge().fit(data.X, data.y[:, None]), data.X, data.y[:, None])
    np.testing.assert_allclose(
        column.drop((data.Xt, data.yt[:, None])).values, flat.drop(data.query).values, atol=1e-12
    )


def test_check_can_compare_the_parameters_themselves():
    data = regression()
    line = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    found = line.check(None, measure="parameters", refits=6)
    assert found.slope == pytest.approx(1, abs=1e-8) and found.relative_error < 1e-8


def test_pandas_strings_are_labels_and_ids_everywhere(tmp_path):
    data = classification(n=60)
    names = pd.Index([f"cust_{i:04}" for i in range(60)])
    frame = pd.DataFrame(data.X, index=names, columns=list("abcd"))
    labels = pd.Series(np.where(data.y, "stays", "leaves"), index=names, dtype=object)
    pipe = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10)).fit(frame, labels)
    found = uw.from_sklearn(pipe, frame, labels)
    assert found.mislabeled(3)["label"].isin(["stays", "leaves"]).all()
    assert found.trust().highest_point in names
    assert found.relabel(pd.Series({"cust_0003": "stays"}), (frame[:2], labels[:2])).train_ids.tolist() == ["cust_0003"]
    assert found.drop((frame[:2], labels[:2]), which=slice(0, 3)).train_ids.tolist() == list(names[:3])
    assert found.drop_group({"first": list(names[:5])}, (frame[:2], labels[:2])).train_ids.tolist() == ["first"]
    path = found.report(tmp_path / "page.html", query=(frame[:4], labels[:4]), refits=4)
    assert "cust_00" in (tmp_path / "page.html").read_text("utf-8") and path.endswith("page.html")
    with refused(E.LabelError, "'maybe'"):
        found.drop((frame[:1], ["maybe"]))
    with pytest.warns(E.UnitWarning, match="sum to 60, the study's sum to 1"):
        found.reweight(np.ones(60), (frame[:2], labels[:2]))


def test_what_torch_would_say_is_said_in_words():
    with refused(E.ShapeError, "could not be called", "convert them"):
        study().drop((X[:, :2], Y))
    with refused(E.ShapeError, "could not be called", "torch.int64", "shape and type"):
        study(data=(torch.ones(6, 3, dtype=torch.long), Y[:6]))
    with refused(E.ShapeError, "single value", "one for each example"):
        study().drop((X[:1], 1))
    with refused(E.ConfigError, "nn.MSELoss()"):
        study(loss="mse")
    with refused(E.OrderError, "drop_last=True", "leaves out"):
        study(data=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=5, drop_last=True))


def test_a_query_without_targets_can_be_predicted_by_a_network():
    _, problem, net = fitted_mlp()
    expected = net.drop(problem.query, measure="prediction").values
    for query in (problem.Xt, (problem.Xt, None), torch.as_tensor(problem.Xt)):
        np.testing.assert_allclose(net.drop(query, measure="prediction").values, expected, atol=1e-14)
    with refused(E.ShapeError, "no targets", "measure='prediction'"):
        net.drop(problem.Xt)


def test_trust_speaks_up_where_no_answer_can_be_had_and_where_training_is_not_done():
    problem = classification(n=40, p=3, classes=3)
    model = mlp(3, 4, 3, 0)
    with pytest.warns(E.NotStationaryWarning):
        raw = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.5))
        raw.self_influence()
    assert any("would move the outputs" in concern for concern in raw.trust().concerns)
    bare = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(1e-4))
    assert bare.trust().lowest_curvature < 0
    assert any("no answer without more damping" in concern for concern in bare.trust().concerns)


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
