"""Following decisions: predicted and refitted against scikit-learn and plain torch fitted again on the data as decided."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

import upweight as uw
from cases import classification, fit, fitted_mlp, pearson, regression, slope
from upweight.errors import ConfigError


def decided(rng, n, labels, classes):
    """Drop five points at random and relabel five others."""
    places = rng.permutation(n)[:11]
    drops = [{"train": int(p), "decision": "drop"} for p in places[:5]]
    moves = [{"train": int(p), "decision": "relabel", "label": int((labels[p] + 1) % classes)} for p in places[5:10]]
    return [*drops, *moves, {"train": int(places[10]), "decision": "keep"}]


def as_decided(X, y, decisions):
    y = np.array(y)
    for one in decisions:
        if one["decision"] == "relabel":
            y[one["train"]] = one["label"]
    keep = np.setdiff1d(np.arange(len(y)), [one["train"] for one in decisions if one["decision"] == "drop"])
    return X[keep], y[keep]


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_changes_as_scikit_learn_says(classes):
    data = classification(n=150, m=60, classes=classes, p=5)
    make = lambda: LogisticRegression(C=1.0, tol=1e-12, max_iter=5000)  # noqa: E731
    fitted = make().fit(data.X, data.y)
    study = uw.from_sklearn(fitted, data.X, data.y)
    loss = lambda model: -np.log(model.predict_proba(data.Xt)[np.arange(60), data.yt]).mean()  # noqa: E731
    true, predicted = [], []
    for seed in range(8):
        decisions = decided(np.random.default_rng(seed), 150, data.y, classes)
        again = make().fit(*as_decided(data.X, data.y, decisions))
        found = study.what_if(decisions, data.query)
        assert found.loss == pytest.approx(loss(fitted), rel=1e-7)
        assert found.refitted == pytest.approx(loss(again) - loss(fitted), rel=1e-4, abs=1e-8)
        assert found.accuracy_refitted == pytest.approx(again.score(*data.query))
        assert (found.dropped, found.relabelled, found.kept, found.queries) == (5, 5, 1, 60)
        true.append(found.refitted), predicted.append(found.predicted)
    assert slope(np.array(true), np.array(predicted)) == pytest.approx(1, abs=0.03)
    assert pearson(np.array(true), np.array(predicted)) > 0.999


def test_least_squares_are_exact():
    data = regression(n=50, m=20)
    make = lambda: Ridge(alpha=2.0)  # noqa: E731
    study = uw.from_sklearn(make().fit(data.X, data.y), data.X, data.y)
    decisions = [{"train": 3, "decision": "relabel", "label": 2.5}, {"train": 7, "decision": "drop"}]
    y = np.array(data.y)
    y[3] = 2.5
    keep = np.arange(50) != 7
    before, after = (
        0.5 * np.square(model.predict(data.Xt) - data.yt).mean()
        for model in (make().fit(data.X, data.y), make().fit(data.X[keep], y[keep]))
    )
    found = study.what_if(decisions, data.query)
    assert found.predicted == pytest.approx(after - before, rel=1e-9)
    assert found.refitted == pytest.approx(after - before, rel=1e-7)
    assert (found.accuracy is None and "fell" in repr(found)) or "rose" in repr(found)


def test_weight_decay_a_point_leaves_with_the_points():
    model, data, study = fitted_mlp(n=60)
    decisions = [
        {"train": 2, "decision": "drop"},
        {"train": 9, "decision": "relabel", "label": int((data.y[9] + 1) % 3)},
    ]
    X, y = as_decided(data.X, data.y, decisions)
    criterion = nn.CrossEntropyLoss(reduction="none")

    def loss(net):
        with torch.no_grad():
            return float(criterion(net(torch.as_tensor(data.Xt)), torch.as_tensor(data.yt)).mean())

    before = loss(model)
    found = study.what_if(decisions, data.query)
    fit(model, torch.as_tensor(X), torch.as_tensor(y), criterion, np.full(len(y), 1 / 60), 0.05 * len(y) / 60, steps=5)
    assert found.refitted == pytest.approx(loss(model) - before, rel=1e-4, abs=1e-8)


def test_nothing_to_follow_changes_nothing():
    data = classification(n=40)
    study = uw.from_sklearn(LogisticRegression(tol=1e-10).fit(data.X, data.y), data.X, data.y)
    found = study.what_if([{"train": 1, "decision": "keep"}], data.query)
    assert (found.predicted, found.refitted, found.kept) == (0.0, 0.0, 1)
    assert "Nothing to follow" in repr(found)


def test_what_cannot_be_refitted_is_said():
    torch.manual_seed(0)
    data = classification(n=30, p=70, classes=3)
    net = nn.Sequential(nn.Linear(70, 60), nn.Tanh(), nn.Linear(60, 3)).double()
    study = uw.Study(net.eval(), (data.X, data.y), loss="cross_entropy", penalty=uw.L2(1e-2))
    decisions = [{"train": 1, "decision": "drop"}]
    with pytest.warns(uw.errors.UpweightWarning):
        found = study.what_if(decisions, data.query)
    assert found.refitted is None and found.predicted != 0 and "Really refitted" not in repr(found)
    with pytest.raises(ConfigError, match="too large to refit"):
        study.what_if(decisions, data.query, refit=True)


def test_only_pairs_of_inputs_and_targets_are_relabelled():
    data = classification(n=20)
    net = nn.Linear(4, 2).double().eval()
    study = uw.Study(
        net,
        {"x": data.X, "y": data.y},
        loss="cross_entropy",
        forward=lambda model, batch: (model(batch["x"]), batch["y"]),
        penalty=uw.L2(0.1),
    )
    with pytest.raises(ConfigError, match="pairs"):
        study.what_if([{"train": 1, "decision": "relabel", "label": 0}], {"x": data.Xt, "y": data.yt})
