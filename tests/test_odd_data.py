"""Odd forms of data, models and losses: read as they are meant, or refused in words."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import upweight as uw
from cases import classification, fitted_mlp, regression
from test_bad_input import X, Y, linear, refused, study

E = uw.errors


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


def test_column_targets_of_a_regression_are_read_as_one_output():
    data = regression()
    flat = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    column = uw.from_sklearn(Ridge().fit(data.X, data.y[:, None]), data.X, data.y[:, None])
    np.testing.assert_allclose(
        column.drop((data.Xt, data.yt[:, None])).values, flat.drop(data.query).values, atol=1e-12
    )


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


def test_answers_do_not_follow_what_the_caller_does_to_data_and_frozen_layers_afterwards():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    data = classification(n=30, p=3, classes=3)
    inputs = data.X.copy()
    head = uw.Study(net, (inputs, data.y), loss="cross_entropy", penalty=0.5, parameters="2.*")
    whole = uw.Study(net, (inputs, data.y), loss="cross_entropy", penalty=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = head.drop(data.query).values, whole.drop(data.query).values
        inputs *= 3
        with torch.no_grad():
            net[0].weight.mul_(2)
        np.testing.assert_array_equal(head.drop(data.query).values, before[0])
        np.testing.assert_array_equal(whole.drop(data.query).values, before[1])


def test_losses_that_are_no_loss_of_one_example_are_refused():
    with refused(E.ConfigError, "class weights or ignore_index", "weights=w[y]"):
        study(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0], dtype=torch.float64)))
    with refused(E.ShapeError, "broadcast"):
        study(linear(outputs=1), data=(X, Y), loss=nn.MSELoss())
    with refused(E.ShapeError, "alone", "mix examples"):
        study(linear(outputs=1), data=(X, Y.double()), loss=lambda o, t: ((o - t) ** 2).mean(1))
    with refused(E.ShapeError, "alone", "mix examples"):
        study(loss=lambda o, t: nn.functional.cross_entropy(o, t, reduction="none") / len(o))


@pytest.mark.parametrize(
    "change", [lambda s, q: s.relabel({0: np.nan}, q), lambda s, q: s.add((q[0] * 1e200, q[1]), q)]
)
def test_no_nan_leaves_in_silence(change):
    data = regression()
    line = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    with refused(E.NonFiniteGradient, "are not finite", "look at this query"):
        change(line, data.query)


def test_loaders_that_leave_examples_out_are_refused():
    whole = torch.utils.data.TensorDataset(X, Y)
    some = torch.utils.data.SubsetRandomSampler(range(3))
    for loader in (
        torch.utils.data.DataLoader(whole, batch_sampler=torch.utils.data.BatchSampler(some, 2, False)),
        torch.utils.data.DataLoader(whole, sampler=torch.utils.data.SequentialSampler(range(3))),
    ):
        with refused(E.OrderError, "sampler", "in order"):
            study(data=loader)


def test_texts_may_enter_a_pipeline_and_dates_may_name_points():
    texts = np.asarray(["good food", "bad food", "good wine", "bad wine", "good", "bad"] * 5)
    labels = np.asarray([1, 0, 1, 0, 1, 0] * 5)
    pipe = make_pipeline(TfidfVectorizer(), LogisticRegression(tol=1e-8)).fit(texts, labels)
    assert uw.from_sklearn(pipe, texts, labels).drop((texts[:2], labels[:2])).values.shape == (2, 30)
    data = classification(n=30)
    frame = pd.DataFrame(data.X, index=pd.date_range("2020-01-01", periods=30))
    dated = uw.from_sklearn(LogisticRegression(tol=1e-8).fit(frame, data.y), frame, data.y)
    chosen = dated.drop((frame[:2], data.y[:2]), which=frame.index[3])
    assert chosen.train_ids.tolist() == [frame.index[3]]
    assert dated.trust().highest_point in frame.index
    assert np.asarray(chosen, dtype=np.float32).dtype == np.float32
    pairs = frame.set_index(pd.MultiIndex.from_product([list("abc"), range(10)]))
    named = uw.from_sklearn(LogisticRegression(tol=1e-8).fit(pairs, data.y), pairs, data.y)
    assert named.drop((pairs[:2], data.y[:2]), which=[("a", 1)]).values.shape == (2, 1)
