"""Bad input: each case a named error that says what was found, what was expected and what to do next."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LassoLars, LinearRegression, LogisticRegression, Ridge
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import upweight as uw
from cases import classification, fitted_mlp, regression
from upweight import errors
from upweight.adapters.torch import Form, adapt_module

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 2


def linear(inputs: int = 3, outputs: int = 2, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, dtype=torch.float64, **kwargs).eval()


def study(model=None, data=(X, Y), loss="cross_entropy", **kwargs) -> uw.Study:
    return uw.Study(linear() if model is None else model, data, loss=loss, **{"penalty": uw.L2(0.5), **kwargs})


def refused(kind, *words):
    """The error is of this kind, and its message says Expected and every given word."""
    return pytest.raises(kind, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in ("xpected", *words)))


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(X[0], Y[0])])


class Mixing(nn.Module):
    """Subtracts the mean of its batch, also in eval mode."""

    def __init__(self):
        super().__init__()
        self.layer = linear()
        self.eval()

    def forward(self, x):
        return self.layer(x - x.mean(0))


class Noisy(nn.Module):
    """Adds noise, also in eval mode."""

    def __init__(self):
        super().__init__()
        self.layer = linear()
        self.eval()

    def forward(self, x):
        return self.layer(x + torch.randn_like(x))


def test_a_shuffling_loader_is_refused():
    with refused(errors.OrderError, "RandomSampler", "shuffle=False"):
        study(data=DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True))


def test_a_loader_in_order_and_a_dataset_are_read_alike():
    with pytest.warns(errors.NotStationaryWarning):
        loaded, whole = (
            study(data=d).drop((X[:2], Y[:2])).values
            for d in (DataLoader(TensorDataset(X, Y), batch_size=5), TensorDataset(X, Y))
        )
    with pytest.warns(errors.NotStationaryWarning):
        plain = study().drop((X[:2], Y[:2])).values
    np.testing.assert_allclose(loaded, plain, atol=1e-13)
    np.testing.assert_allclose(whole, plain, atol=1e-13)


@pytest.mark.parametrize("data", [Endless(), DataLoader(Endless()), (pair for pair in [(X, Y)])])
def test_data_without_a_length_is_refused(data):
    with refused(errors.OrderError, "without a length" if not isinstance(data, DataLoader) else "iterable"):
        study(data=data)


def test_a_callable_loss_that_returns_a_scalar_is_refused():
    with refused(errors.ShapeError, "reduction='none'", "(2,)"):
        study(loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets))


@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy", "poisson", "smooth_hinge", nn.MSELoss()])
def test_outputs_with_a_column_against_flat_targets_never_broadcast(loss):
    loss = uw.smooth_hinge(0.1) if loss == "smooth_hinge" else loss
    with refused(errors.ShapeError, "(2, 1)", "(2,)", "broadcast"):
        study(linear(3, 1), (X, Y.double()), loss=loss)


def test_a_model_that_mixes_its_batch_is_refused():
    with refused(errors.NondeterministicModel, "rest of its batch"):
        study(Mixing())


def test_a_model_that_draws_noise_is_refused():
    with refused(errors.NondeterministicModel, "two different outputs"):
        study(Noisy())


def test_a_model_in_train_mode_is_scored_in_eval_mode_and_said():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), linear()).train()
    model[1].eval()
    with pytest.warns(errors.ModeWarning, match="train mode"):
        found = study(model)
    assert model.training and model[0].training and not model[1].training
    with pytest.warns(errors.NotStationaryWarning):
        values = found.drop((X[:2], Y[:2])).values
    with pytest.warns(errors.NotStationaryWarning):
        np.testing.assert_allclose(values, study().drop((X[:2], Y[:2])).values, atol=1e-13)


def with_bad(tensor, place, value):
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_and_targets_that_are_not_finite_are_refused_by_example(value):
    with refused(errors.NonFiniteInput, "example 7", "inputs"):
        study(data=(with_bad(X, (7, 1), value), Y))
    with refused(errors.NonFiniteInput, "example 5", "targets"):
        study(linear(3, 1), (X, with_bad(X[:, :1], 5, value)), loss="squared_error")
    with pytest.warns(errors.NotStationaryWarning), refused(errors.NonFiniteInput, "query"):
        found = study()
        found.drop((X, Y))
        found.drop((with_bad(X, (0, 0), value), Y))


def test_a_dataset_with_a_bad_item_is_refused_by_example():
    with refused(errors.NonFiniteGradient, "training example 7"):
        study(data=TensorDataset(with_bad(X, (7, 1), float("nan")), Y))


def test_parameters_that_are_not_finite_are_refused_by_name():
    model = linear()
    model.bias.data[0] = float("nan")
    with refused(errors.NonFiniteInput, "'bias'"):
        study(model)


def test_a_loss_or_gradient_that_is_not_finite_is_refused_by_example():
    exponents = torch.where(torch.arange(12) == 3, 800.0, 1.0).double()[:, None]
    with refused(errors.NonFiniteGradient, "loss of training example 3 is infinite"):
        study(linear(3, 1), (X, exponents), loss=lambda f, y: (f.square() + torch.exp(y)).squeeze(1))
    model = linear(1, 1)
    with refused(errors.NonFiniteGradient, "gradient of training example 0"):
        model.weight.data.fill_(0), model.bias.data.fill_(0)
        study(model, (X[:, :1], X[:, :1]), loss=lambda f, y: f.abs().sqrt().squeeze(1))


def test_empty_training_sets_and_queries_are_refused():
    with refused(errors.EmptyDataset, "training set is empty"):
        study(data=(X[:0], Y[:0]))
    with refused(errors.EmptyDataset, "query is empty"):
        study().drop((X[:0], Y[:0]))


@pytest.mark.parametrize(
    ("targets", "word"),
    [
        (with_bad(Y, 4, 2), "example 4 has label 2"),
        (with_bad(Y, 4, -1), "label -1"),
        (Y.double(), "torch.float64"),
        (Y.bool(), "torch.bool"),
    ],
)
def test_labels_out_of_range_or_of_the_wrong_type_are_refused(targets, word):
    with refused(errors.LabelError, word):
        study(data=(X, targets))


@pytest.mark.parametrize(
    ("loss", "value", "word"),
    [("binary_cross_entropy", 1.5, "from 0 to 1"), ("poisson", -1.0, "counts"), ("hinge", 0.5, "-1 and 1")],
)
def test_targets_outside_the_loss_s_range_are_refused(loss, value, word):
    loss = uw.smooth_hinge(0.1) if loss == "hinge" else loss
    with refused(errors.LabelError, "example 6", word):
        study(linear(3, 1), (X, with_bad(Y.double()[:, None], 6, value)), loss=loss)


def test_no_tracked_parameter_and_unknown_names_are_refused():
    model = linear()
    model.requires_grad_(False)
    with refused(errors.ModelError, "no parameter is tracked"):
        study(model)
    with refused(errors.ConfigError, "'hedd.*'", "weight, bias"):
        study(parameters="hedd.*")
    with refused(errors.ConfigError, "'*.wight'"):
        study(penalty=uw.L2(0.1, on="*.wight"))
    with refused(errors.ModelError, "nn.Module"):
        study(model="a model")


def test_more_parameters_than_memory_says_how_many_bytes_and_what_else():
    found = study(memory=100)
    with (
        pytest.warns(errors.NotStationaryWarning),
        refused(errors.BudgetError, "p = 8 parameters", "GiB", "parameters='head.*'"),
    ):
        np.testing.assert_allclose(
            found.drop((X, Y), order="first").values, study().drop((X, Y), order="first").values, atol=1e-6
        )
        found.self_influence()
    with refused(errors.BudgetError, "p = 8"):
        found.drop((X, Y), order="newton")


def test_an_indefinite_hessian_gives_its_lowest_eigenvalue_and_the_ways_out():
    model, problem, _ = fitted_mlp()
    with torch.no_grad():
        model[0].weight.mul_(-3), model[2].bias.add_(2)
    found = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.01), curvature="hessian")
    H = uw.curvature.hessian(found.objective).dense()
    lowest = float(torch.linalg.eigvalsh(H)[0])
    assert lowest < 0
    with refused(errors.IndefiniteCurvature, f"{lowest:.3g}", "damping=", "curvature='ggn'"):
        found.drop(problem.query)
    with pytest.warns(errors.NotStationaryWarning):
        for way_out in ({"damping": 2 * abs(lowest)}, {"curvature": "ggn"}):
            again = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.01), **way_out)
            assert np.isfinite(again.drop(problem.query).values).all()
        left_open = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.01)).drop(
            problem.query
        )
    assert "of the Gauss-Newton matrix, as the Hessian is not positive definite" in left_open.verdict
    G = uw.curvature.ggn(found.objective)
    share = 0.1 * float(G.dense().diagonal().mean())
    with pytest.warns(errors.NotStationaryWarning):
        twin = uw.Study(
            model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.01), curvature="ggn", damping=share
        ).drop(problem.query)
    np.testing.assert_allclose(left_open.values, twin.values, rtol=1e-9)


def test_collinear_columns_without_a_penalty_are_refused():
    doubled = torch.cat([X, X[:, :1]], 1)
    with refused(errors.IndefiniteCurvature, "singular", "penalty=uw.L2(weight_decay)"):
        uw.Study(linear(4, 1), (doubled, X[:, :1]), loss="squared_error").drop((doubled, X[:, :1]))


def test_a_point_of_leverage_one_stays_at_first_order_and_is_said():
    data = regression(n=10)
    design = np.column_stack([data.X, np.arange(10) == 3])
    found = uw.from_sklearn(LinearRegression().fit(design, data.y), design, data.y)
    with pytest.warns(errors.ApproximationWarning, match="1 of 10 changes stay at first order"):
        effects = found.drop((design[:2], data.y[:2]))
    assert np.isfinite(effects.values).all()
    assert any("stay at first order" in note for note in effects.notes)
    assert found.leverage()[3] == pytest.approx(1)


def test_unfitted_and_unsupported_estimators_are_refused():
    data = regression()
    with refused(errors.ModelError, "not fitted", "fit(X, y)"):
        uw.from_sklearn(Ridge(), data.X, data.y)
    with refused(errors.ModelError, "LassoLars", "the nearest that is: Lasso", "LinearRegression, Ridge"):
        uw.from_sklearn(LassoLars().fit(data.X, data.y), data.X, data.y)
    with refused(errors.ModelError, "positive=True"):
        uw.from_sklearn(LinearRegression(positive=True).fit(data.X, data.y), data.X, data.y)
    labelled = classification()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lasso = LogisticRegression(l1_ratio=1.0, solver="saga", max_iter=20).fit(labelled.X, labelled.y)
    with refused(errors.ModelError, "l1"):
        uw.from_sklearn(lasso, labelled.X, labelled.y)


def test_other_columns_than_the_fit_are_refused():
    import pandas as pd

    data = regression()
    frame = pd.DataFrame(data.X, columns=list("abcd"))
    fitted = Ridge().fit(frame, data.y)
    with refused(errors.ShapeError, "(40, 3)", "(n, 4)"):
        uw.from_sklearn(fitted, data.X[:, :3], data.y)
    with refused(errors.ShapeError, "['b', 'a', 'c', 'd']"):
        uw.from_sklearn(fitted, frame[list("bacd")], data.y)
    with refused(errors.ShapeError, "(3, 2)"):
        uw.from_sklearn(fitted, frame, data.y).drop((data.Xt[:, :2], data.yt))


@pytest.mark.parametrize("which", [40, [0, 99], -1, "first"])
def test_training_points_that_do_not_exist_are_refused(which):
    data = regression()
    found = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    with refused(errors.IndexOutOfRange, str(which if not isinstance(which, list) else 99)):
        found.drop(data.query, which=which)


def test_unknown_classes_are_refused_in_training_query_and_relabelling():
    data = classification(classes=3)
    fitted = LogisticRegression().fit(data.X, np.array(["ant", "bee", "cat"])[data.y])
    named = np.array(["ant", "bee", "cat"])[data.y]
    found = uw.from_sklearn(fitted, data.X, named)
    with refused(errors.LabelError, "'dog'", "ant"):
        found.relabel({0: "dog"}, (data.Xt, named[:4]))
    with refused(errors.LabelError, "'dog'"):
        found.drop((data.Xt, np.array(["dog"] * 4)))
    with refused(errors.LabelError, "'dog'"):
        uw.from_sklearn(fitted, data.X, np.array(["dog"] * 60))
    with pytest.warns(errors.NotStationaryWarning):
        assert study().relabel({0: 1}, (X, Y)).values.shape == (12, 1)
    with refused(errors.LabelError, "label 5"):
        study().relabel({0: 5}, (X, Y))
    with refused(errors.LabelError, "0.5"):
        study().relabel({0: 0.5}, (X, Y))


def test_weights_ids_and_lengths_that_do_not_fit_are_refused():
    for weights, kind, word in (
        (np.ones(5), errors.ShapeError, "(12,)"),
        (np.full(12, np.nan), errors.NonFiniteInput, "example 0"),
        (-np.ones(12), errors.ConfigError, "negative"),
        (np.zeros(12), errors.ConfigError, "zero"),
    ):
        with refused(kind, word):
            study(weights=weights)
    with refused(errors.ShapeError, "12 and 11"):
        study(data=(X, Y[:11]))
    with refused(errors.ShapeError, "3 ids for 12"):
        study(ids=[1, 2, 3])
    with refused(errors.InputError, "repeat"):
        study(ids=[0] * 12)
    for missing in ([float("nan")] * 12, [*range(11), None], [*range(11), pd.NA], [*range(11), pd.NaT]):
        with refused(errors.InputError, "None or NaN"):
            study(ids=missing)
    with refused(errors.ShapeError, "(12, 2)"):
        study(ids=np.ones((12, 2)))
    with refused(errors.InputError, "numbers"):
        study(data=(np.array([["a"] * 3] * 12), Y))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"loss": "crossentropy"}, "cross_entropy"), ({"protocol": "refit"}, "fixed_mean"), ({"curvature": "fisher"}, "ekfac"), ({"solver": "gmres"}, "cholesky"),
        ({"damping": -1.0}, "zero or more"), ({"batch_size": 0}, "positive integer"), ({"penalty": "ridge"}, "uw.L2"), ({"device": "cuda"}, "model.to("),
    ],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(settings, word):
    with refused(errors.ConfigError, word):
        study(**settings)


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
@pytest.mark.parametrize(
    ("ask", "word"),
    [
        (lambda s: s.drop((X, Y), measure="los"), "margin"), (lambda s: s.drop((X, Y), order="second"), "newton"), (lambda s: s.drop((X, Y), estimand="refit"), "response"),
        (lambda s: s.drop((X, Y), aggregate="median"), "mean"), (lambda s: s.drop(), "query=(X_test, y_test)"), (lambda s: s.drop((X, Y), measure="parameters"), "leave query out"),
        (lambda s: s.relabel({}, (X, Y)), "at least one"), (lambda s: s.drop_group([[]], (X, Y)), "at least one"), (lambda s: s.drop_group([1, 2], (X, Y)), "one label a point"),
        (lambda s: s.perturb([0], (X, Y), measure="accuracy"), "differentiable"), (lambda s: s.drop((X, Y)).raises(0), "at least 1"), (lambda s: s.check((X, Y), refits=1), "at least 2"),
        (lambda s: s.upweight((X, Y), measure="accuracy"), "derivative"), (lambda s: uw.L2(-1.0), "zero or more"), (lambda s: uw.smooth_hinge(0), "above 0"),
        (lambda s: s.drop((X, Y), measure=lambda f, y: f.mean()), "aggregate='set'"), (lambda s: s.drop((X, Y), aggregate="set"), "'accuracy'"), (lambda s: s.drop((X, Y * 0), measure="auc"), "both classes"),
        (lambda s: s.drop((X, Y), which=np.array([True] * 12)), "flatnonzero"), (lambda s: s.drop((X, None)), "targets"), (lambda s: s.reweight(np.ones(3), (X, Y)), "12"),
        (lambda s: s.reweight(np.full(12, np.inf), (X, Y)), "finite"), (lambda s: s.replace([0], (X, Y), (X, Y)), "one for each"), (lambda s: s.drop((X, Y)).groupby([1, 2]), "one label"),
    ],
)  # fmt: skip
def test_questions_without_a_meaning_are_refused(ask, word):
    with refused((errors.ConfigError, errors.InputError), word):
        ask(study())


def test_logits_have_no_meaning_for_a_regression():
    data = regression()
    found = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    for measure in ("margin", "probability", "logit", "accuracy", "auc"):
        with refused(errors.ConfigError, measure, "squared_error"):
            found.drop(data.query, measure=measure)


def test_every_error_is_caught_by_its_root_and_its_python_cousin():
    assert issubclass(errors.IndexOutOfRange, IndexError) and issubclass(errors.InputError, ValueError)
    assert issubclass(errors.NumericalError, ArithmeticError) and issubclass(errors.MissingExtraError, ImportError)
    assert all(
        issubclass(kind, (errors.UpweightError, errors.UpweightWarning))
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    )


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


def test_curvature_that_overflows_names_its_layer():
    X, y = torch.full((20, 4), 1e20), torch.zeros(20, 1)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 1)).eval()
    model[0].weight.data.mul_(1e-20)
    objective = adapt_module(model, (X, y), Form("squared_error")).objective
    with pytest.raises(uw.errors.NonFiniteGradient, match=r"layer of '0.weight' is not finite"):
        uw.curvature.ekfac(objective)


def test_no_curvature_at_all_is_no_division_by_zero():
    found = uw.inverse(uw.linop.Dense(torch.zeros(2, 2, dtype=torch.float64), is_symmetric=True).damped(0.5))
    assert found.verdict.damping_share == float("inf")


def test_memory_below_the_smallest_tile_says_what_is_needed():
    X, y = torch.randn(20, 4), torch.arange(20) % 3
    with pytest.raises(uw.errors.BudgetError, match=r"one example holds \d+ bytes.*raise memory="):
        uw.Study(small_network(), (X, y), loss="cross_entropy", memory=16)


def test_memory_bounds_the_batches():
    X, y = torch.randn(20, 4), torch.arange(20) % 3
    study = uw.Study(small_network(), (X, y), loss="cross_entropy", memory=1000)
    assert 1 <= study.fitted.engine.tile < 20


@pytest.mark.parametrize(
    ("matrix", "error", "words"),
    [
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), uw.errors.ConfigError, "differs from its transpose by up to 0.5"),
        (torch.tensor([[1.0, 0.0], [0.0, torch.nan]]), uw.errors.NonFiniteInput, "NaN or infinity"),
    ],
)
def test_a_matrix_is_held_to_what_it_declares(matrix, error, words):
    with pytest.raises(error, match=words):
        uw.inverse(uw.linop.Dense(matrix.double(), is_symmetric=True))


class Fragile(nn.Module):
    """A network whose output is NaN for inputs above 50: data that are finite and still break it."""

    def __init__(self):
        super().__init__()
        self.body = small_network()

    def forward(self, inputs):
        return self.body(torch.where(inputs > 50, inputs * torch.nan, inputs))


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
def test_a_broken_example_outside_the_stationarity_sample_is_named(monkeypatch):
    monkeypatch.setattr("upweight.fitted.fitted.DEAR", 0)
    X, y = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)), torch.arange(400) % 3
    X[7] = 100.0
    study = uw.Study(Fragile().eval(), (X, y), loss="cross_entropy", curvature="ekfac")
    assert study.fitted.stationarity.sampled == 128
    for ask in (lambda: study.drop((X[:2], y[:2])), study.self_influence):
        with pytest.raises(uw.errors.NonFiniteGradient, match="training example 7 is NaN"):
            ask()
    part = uw.Study(Fragile().eval(), (X, y), loss="cross_entropy", curvature="ekfac", factor_share=0.1)
    with pytest.raises(uw.errors.NonFiniteGradient, match="point 7 has a value of nan"):
        part.self_influence()
    with pytest.raises(uw.errors.NonFiniteGradient, match="effect of 7 on 0 is nan"):
        part.drop((X[:2], y[:2]), order="first")


def test_a_model_without_numbers_is_refused():
    with torch.device("meta"):
        empty = nn.Linear(3, 2, dtype=torch.float64)
    with refused(errors.ModelError, "'weight' is on the meta device"):
        uw.Study(empty, (X, Y), loss="cross_entropy")
    half = nn.Sequential(nn.Linear(3, 2, dtype=torch.float64), nn.BatchNorm1d(2, dtype=torch.float64, device="meta"))
    half[1].weight, half[1].bias = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    with refused(errors.ModelError, "'1.running_mean' is on the meta device"):
        uw.Study(half, (X, Y), loss="cross_entropy", parameters="0.*")
