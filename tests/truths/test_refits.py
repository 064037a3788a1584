"""A study's questions answered by refitting: against models fitted from scratch on the changed data by plain torch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn
from torch.nn import functional as F

import upweight as uw
from cases import classification, fit, fitted_mlp, mlp, pearson, regression, slope
from upweight.evaluate import Refits, Retraining, Training
from upweight.evaluate import refits as refits_module

N, PENALTY = 40, 0.05
ce = nn.CrossEntropyLoss(reduction="none")


def softmax() -> tuple[nn.Module, object]:
    problem = classification(N, 3, 3, 3, seed=1)
    torch.manual_seed(0)
    model = fit(nn.Linear(3, 3).double().eval(), problem.X, problem.y, ce, np.full(N, 1 / N), PENALTY, steps=5)
    return model, problem


def network() -> tuple[nn.Module, object]:
    model, problem, _ = fitted_mlp(N, penalty=PENALTY)
    return model, problem


def changed(question: str, problem):
    """The change as a study is asked for it, and the data and weights it makes."""
    X, y, new = problem.X, problem.y, problem.Xt[:1] + 0.5
    whole = np.full(N, 1 / N)
    match question:
        case "drop":
            keep = np.arange(N) != 5
            return lambda r, q: r.drop(q, which=[5]), X[keep], y[keep], None
        case "group":
            keep = ~np.isin(np.arange(N), [1, 4, 7, 12])
            return lambda r, q: r.drop_group([[1, 4, 7, 12]], q), X[keep], y[keep], None
        case "reweight":
            weights = whole * (1 + 0.5 * np.cos(np.arange(N)))
            return lambda r, q: r.reweight(weights, q), X, y, weights / weights.sum()
        case "relabel":
            other = y.copy()
            other[5] = (y[5] + 1) % 3
            return lambda r, q: r.relabel({5: int(other[5])}, q), X, other, None
        case "replace":
            inputs, other = X.copy(), y.copy()
            inputs[5], other[5] = new[0], 2
            return lambda r, q: r.replace([5], (new, np.asarray([2])), q), inputs, other, None
        case _:
            return lambda r, q: r.add((new, np.asarray([2])), q), np.concatenate([X, new]), np.append(y, 2), None


QUESTIONS = ("drop", "group", "reweight", "relabel", "replace", "add")


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("kind", [softmax, network], ids=["softmax", "network"])
def test_a_refit_is_the_model_of_the_changed_data(kind, question):
    """fixed_mean: the mean loss of what is there, and the same weight decay; from the same start, by L-BFGS and Newton."""
    model, problem = kind()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(PENALTY))
    ask, X, y, weights = changed(question, problem)
    again = nn.Linear(3, 3).double() if kind is softmax else mlp(3, 2, 3)
    again.load_state_dict(model.state_dict())
    fit(again, X, y, ce, np.full(len(y), 1 / len(y)) if weights is None else weights, PENALTY, steps=3)
    Xt, yt = torch.as_tensor(problem.Xt), torch.as_tensor(problem.yt)
    expected = (ce(again(Xt), yt) - ce(model(Xt), yt)).detach().numpy()
    found, predicted = ask(Refits(study), problem.query), ask(study, problem.query)
    np.testing.assert_allclose(found.effects.values[:, 0], expected, rtol=1e-5, atol=1e-8)
    assert found.effects.order == "refit" and found.seeds == 1 and found.noise is None
    assert found.effects.question == predicted.question and found.effects.unit == predicted.unit == "nats"
    assert found.effects.train_ids.tolist() == predicted.train_ids.tolist()
    assert (
        "really refitted" in repr(found) and "the change in loss" in repr(found) and "Newton refits from" in repr(found)
    )


def test_the_norm_of_the_gradient_left_is_stated_and_true():
    model, problem = network()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(PENALTY))
    found = Refits(study).drop(which=[3], measure="parameters")
    theta = torch.as_tensor(found.effects.values[:, 0]) + study.objective.theta
    weights = torch.full((N,), 1 / (N - 1), dtype=torch.float64)
    weights[3] = 0
    left = study.fitted.engine.gradient(weights, theta) + PENALTY * theta
    assert float(left.norm()) <= 1e-10 * study.fitted.stationarity.typical
    assert "‖∇Q‖ ≤" in found.effects.verdict


def test_under_a_fixed_total_penalty_what_leaves_is_not_made_up_for():
    data = regression(30, 4)
    fitted = Ridge(alpha=3.0).fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y)
    keep = np.arange(30) != 7
    again = Ridge(alpha=3.0).fit(data.X[keep], data.y[keep])
    found = Refits(study).drop(data.query, which=[7], measure="prediction").effects.values[:, 0]
    np.testing.assert_allclose(found, again.predict(data.Xt) - fitted.predict(data.Xt), atol=1e-9)
    np.testing.assert_allclose(found, study.drop(data.query, which=[7], measure="prediction").values[:, 0], atol=1e-9)
    seen = []

    def train(weights, seed):
        seen.append(weights)
        again = Ridge(alpha=3.0).fit(data.X[weights > 0], data.y[weights > 0])
        return {"weight": again.coef_[None], "bias": again.intercept_[None]}

    trained = Refits(study, train).drop(data.query, which=[7], measure="prediction").effects.values[:, 0]
    np.testing.assert_allclose(trained, found, atol=1e-9)
    np.testing.assert_allclose(sorted(row.sum() for row in seen), [29 / 30, 1.0])


def test_a_classifier_of_scikit_learn_is_relabelled_and_added_to_in_its_own_labels():
    data = classification(60, 4, classes=2)
    y = np.where(data.y == 1, "yes", "no")
    query = data.Xt, np.where(data.yt == 1, "yes", "no")
    tight = {"C": 0.5, "tol": 1e-12, "max_iter": 5000}
    study = uw.from_sklearn(LogisticRegression(**tight).fit(data.X, y), data.X, y)
    other = y.copy()
    other[9] = "no" if y[9] == "yes" else "yes"
    before = LogisticRegression(**tight).fit(data.X, y).decision_function(data.Xt)
    after = LogisticRegression(**tight).fit(data.X, other).decision_function(data.Xt)
    found = Refits(study).relabel({9: other[9]}, query, measure="prediction").effects.values[:, 0]
    np.testing.assert_allclose(found, after - before, atol=1e-6)
    more = LogisticRegression(**tight).fit(np.concatenate([data.X, data.Xt[:1]]), np.append(y, "no"))
    found = Refits(study).add((data.Xt[:1], np.asarray(["no"])), query, measure="prediction").effects.values[:, 0]
    np.testing.assert_allclose(found, more.decision_function(data.Xt) - before, atol=1e-6)


def recipe(problem, **settings) -> Training:
    """A convex training that does converge: plain full-batch descent on the penalised mean loss."""
    own = {
        "optimizer": partial(torch.optim.SGD, lr=1.0, momentum=0.8, weight_decay=PENALTY),
        "epochs": 400,
        "batch_size": 500,
    }
    build = lambda: nn.Linear(3, 3).double()  # noqa: E731
    return Training(build, (problem.X, problem.y), "cross_entropy", **own | settings)


@pytest.mark.parametrize("question", QUESTIONS)
def test_retraining_by_a_recipe_reaches_the_same_minimum_under_every_change(question):
    model, problem = softmax()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(PENALTY))
    ask, *_ = changed(question, problem)
    newton = ask(Refits(study), problem.query).effects.values
    trained = ask(Refits(study, recipe(problem)), problem.query)
    np.testing.assert_allclose(trained.effects.values, newton, rtol=1e-6, atol=1e-9)
    predicted = ask(study, problem.query).values
    assert pearson(newton, predicted) > 0.98 and 0.7 < slope(newton, predicted) < 1.2
    assert "retrained from 1 seed, with the change and without" in trained.effects.verdict


def test_new_points_need_a_training_whose_data_can_be_changed():
    model, problem = softmax()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(PENALTY))
    with pytest.raises(
        uw.errors.ConfigError, match=r"train= of type function, which only takes weights. Expected a uw.eval"
    ):
        Refits(study, lambda weights, seed: model.state_dict()).relabel({3: 1}, problem.query)
    named = uw.Study(
        model, {"x": torch.as_tensor(problem.X), "y": torch.as_tensor(problem.y)}, loss="cross_entropy",
        penalty=uw.L2(PENALTY), forward=lambda m, batch: (m(batch["x"]), batch["y"]),
    )  # fmt: skip
    with pytest.raises(
        uw.errors.ConfigError, match=r"batches of type dict. Expected \(inputs, targets\); ask for replace"
    ):
        Refits(named).relabel({3: 1}, {"x": torch.as_tensor(problem.Xt), "y": torch.as_tensor(problem.yt)})
    new = {"x": torch.as_tensor(problem.Xt[:1]), "y": torch.as_tensor(problem.yt[:1])}
    both = Refits(named).replace([3], new, new), Refits(study).replace([3], (problem.Xt[:1], problem.yt[:1]), (problem.Xt[:1], problem.yt[:1]))  # fmt: skip
    np.testing.assert_allclose(both[0].effects.values, both[1].effects.values, atol=1e-9)


def noisy(problem, epochs: int = 3) -> Training:
    build = lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)).double()  # noqa: E731
    return Training(build, (problem.X, problem.y), "cross_entropy", partial(torch.optim.SGD, lr=0.3), epochs, 8)


def test_seeds_are_averaged_and_their_noise_is_told():
    problem = classification(N, 3, 3, 3, seed=1)
    run = noisy(problem)
    weights = np.full(N, 1 / N)
    model = run.model(run(weights, 0))
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", curvature="ekfac")
    with pytest.warns(uw.errors.NotStationaryWarning):
        predicted = study.drop(problem.query)
    found = Refits(study, Retraining(run, progress=False), seeds=4).drop(problem.query, which=[2, 9])
    Xt, yt = torch.as_tensor(problem.Xt), torch.as_tensor(problem.yt)

    def loss(row, seed):
        return F.cross_entropy(run.model(run(row, seed))(Xt), yt, reduction="none").detach().numpy()

    without = [np.where(np.arange(N) == i, 0.0, 1 / (N - 1)) for i in (2, 9)]
    expected = np.stack([np.stack([loss(row, s) - loss(weights, s) for row in without], 1) for s in range(4)])
    np.testing.assert_allclose(found.changes, expected, atol=1e-10)
    np.testing.assert_allclose(found.effects.values, expected.mean(0), atol=1e-10)
    np.testing.assert_allclose(found.standard_error, expected.std(0, ddof=1) / 2, atol=1e-10)
    assert found.noise.runs == 4 and found.noise.needed.shape == (3, 2) and "Seed noise" in repr(found)
    assert predicted.values.shape == (3, N) and np.asarray(found).shape == (3, 2)
    assert np.isnan(replace(found, changes=found.changes[:1]).standard_error).all()


def test_a_study_s_own_model_is_left_alone():
    model, problem = softmax()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(PENALTY))

    def in_place(weights, seed):
        with torch.no_grad():
            model.weight += float(weights[0])
        return model.state_dict()

    with pytest.raises(uw.errors.ModelError, match=r"changed the study's own model. Expected it to leave that alone"):
        Refits(study, in_place).drop(problem.query, which=[0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truth": "gospel"}, r"truth='gospel' is unknown. Expected one of auto, refit, pbrf"),
        ({"seeds": 2}, r"seeds=2 without train=. Expected at least one, and one without"),
        ({"seeds": 0, "train": print}, r"seeds=0. Expected at least one"),
        ({"truth": "pbrf", "train": print}, r"truth='pbrf' found train=. Expected none"),
    ],
)
def test_refits_that_cannot_be_are_refused(settings, message):
    model, problem = softmax()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(PENALTY))
    with pytest.raises(uw.errors.ConfigError, match=message):
        Refits(study, **settings)


def test_weights_and_examples_that_do_not_fit_are_refused():
    model, problem = softmax()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(PENALTY))
    refits = Refits(study)
    with pytest.raises(uw.errors.ShapeError, match=r"found weights of shape \(3,\). Expected \(k, 40\)"):
        refits.reweight(np.ones(3), problem.query)
    with pytest.raises(uw.errors.NonFiniteInput, match=r"not finite, in row 0. Expected finite weights"):
        refits.reweight(np.full(N, np.inf), problem.query)
    with pytest.raises(
        uw.errors.ShapeError, match=r"found 3 new examples for 1 training points. Expected one for each"
    ):
        refits.replace([3], problem.query, problem.query)
    with pytest.raises(uw.errors.BudgetError, match=r"a refit found 12 parameters and no train="):
        Refits(
            uw.Study(model, (problem.X, problem.y), loss="cross_entropy", curvature="ekfac", memory=600), truth="refit"
        )


def test_newton_refits_are_kept_one_by_one_and_none_is_taken_twice(tmp_path, monkeypatch):
    model, problem = softmax()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(PENALTY))
    taken, real = [], refits_module.refit_altered

    def interrupted(fitted, altered):
        taken.append(altered)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return real(fitted, altered)

    monkeypatch.setattr(refits_module, "refit_altered", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Refits(study, folder=tmp_path).drop(problem.query, which=[1, 2, 3, 4, 5])
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    found = Refits(study, folder=tmp_path).drop(problem.query, which=[1, 2, 3, 4, 5])
    assert len(taken) == 4 + 3  # two points that were left, and the unchanged set
    monkeypatch.undo()
    whole = Refits(study).drop(problem.query, which=[1, 2, 3, 4, 5])
    np.testing.assert_array_equal(found.effects.values, whole.effects.values)
    other = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(2 * PENALTY))
    with pytest.warns(uw.errors.NotStationaryWarning):
        other.drop(problem.query)
    moved = Refits(other, folder=tmp_path).drop(problem.query, which=[1]).effects.values
    assert not np.allclose(moved, found.effects.values[:, :1], rtol=1e-3)
    with pytest.raises(uw.errors.ConfigError, match=r"Expected one folder; give it to the Retraining"):
        Refits(study, Retraining(recipe(problem)), folder=tmp_path)
