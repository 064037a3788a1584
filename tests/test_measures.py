"""Measures: what they are, at shifted outputs and as gradients, alone and over a set."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import upweight as uw
from cases import classification
from upweight.evaluate.refit import refit
from upweight.objective import Measure, read_loss, read_measure

torch.manual_seed(0)
ETA = torch.randn(6, 3, dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
BINARY = torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0], [0.0]], dtype=torch.float64)


def value(measure, loss, outputs, targets):
    return read_measure(measure, read_loss(loss), ()).values(outputs, targets)


def test_class_measures_are_what_their_names_say():
    p = torch.softmax(ETA, 1)[torch.arange(6), Y]
    torch.testing.assert_close(value("probability", "cross_entropy", ETA, Y)[:, 0], p)
    torch.testing.assert_close(value("margin", "cross_entropy", ETA, Y)[:, 0], torch.log(p / (1 - p)))
    torch.testing.assert_close(value("logit", "cross_entropy", ETA, Y)[:, 0], ETA[torch.arange(6), Y])
    torch.testing.assert_close(value("loss", "cross_entropy", ETA, Y)[:, 0], -torch.log(p))
    torch.testing.assert_close(value("prediction", "cross_entropy", ETA, Y), ETA)


def test_binary_measures_are_of_the_target_s_class():
    eta = ETA[:, :1]
    p = torch.where(BINARY > 0, torch.sigmoid(eta), 1 - torch.sigmoid(eta))
    torch.testing.assert_close(value("probability", "binary_cross_entropy", eta, BINARY), p)
    torch.testing.assert_close(value("margin", "binary_cross_entropy", eta, BINARY), torch.log(p / (1 - p)))
    torch.testing.assert_close(value("loss", "binary_cross_entropy", eta, BINARY), -torch.log(p))


@pytest.mark.parametrize("measure", ["loss", "logit", "margin", "probability", "prediction"])
def test_gradients_are_derivatives(measure):
    found = read_measure(measure, read_loss("cross_entropy"), (3,))
    assert isinstance(found, Measure)
    slopes = found.gradient(ETA, Y)
    for o in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[o] = 1e-6
        numeric = (found.values(ETA + step, Y) - found.values(ETA - step, Y)) / 2e-6
        torch.testing.assert_close(slopes[:, :, o], numeric, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "squared_error", "poisson", "smooth_hinge"])
def test_loss_derivatives_are_derivatives(loss):
    found = uw.smooth_hinge(0.3) if loss == "smooth_hinge" else read_loss(loss)
    outputs, targets = (
        (ETA, Y) if loss == "cross_entropy" else (ETA[:, :1], BINARY * 2 - 1 if loss == "smooth_hinge" else BINARY)
    )
    o = outputs.shape[1]
    for k in range(o):
        step = torch.zeros(o, dtype=torch.float64)
        step[k] = 1e-6
        up, down = outputs + step, outputs - step
        torch.testing.assert_close(
            found.gradient(outputs, targets)[:, k],
            (found.values(up, targets) - found.values(down, targets)) / 2e-6,
            atol=1e-8,
            rtol=1e-6,
        )
        torch.testing.assert_close(
            found.hessian(outputs, targets)[:, k],
            (found.gradient(up, targets) - found.gradient(down, targets)) / 2e-6,
            atol=1e-7,
            rtol=1e-6,
        )


def test_the_smoothed_hinge_tends_to_the_hinge():
    y = BINARY * 2 - 1
    hinge = torch.clamp(1 - y * ETA[:, :1], min=0)[:, 0]
    errors = [float((uw.smooth_hinge(t).values(ETA[:, :1], y) - hinge).abs().max()) for t in (0.1, 0.01, 0.001)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3
    zero_one, signs = (uw.smooth_hinge(0.1).prepare(ETA[:, :1], labels)[1] for labels in (BINARY, y))
    torch.testing.assert_close(zero_one, signs)


@pytest.fixture(scope="module")
def binary():
    data = classification(n=80, m=30)
    fitted = LogisticRegression(tol=1e-10).fit(data.X, data.y)
    return uw.from_sklearn(fitted, data.X, data.y), data


@pytest.mark.parametrize("order", ["newton", "first"])
def test_accuracy_and_auc_are_counted_at_shifted_outputs(binary, order):
    study, data = binary
    shifts = study.drop(data.query, measure="prediction", order=order).values
    scores = study.fitted.engine.outputs(study.fitted.adapted.codec.read(data.query, "query").read(slice(0, 30)))[0][
        :, 0
    ].numpy()
    accuracy = study.drop(data.query, measure="accuracy", order=order).values
    auc = study.drop(data.query, measure="auc", order=order).values
    assert accuracy.shape == auc.shape == (1, 80)
    for i in (0, 13, 50):
        moved = scores + shifts[:, i]
        assert accuracy[0, i] == pytest.approx(((moved > 0) == data.yt).mean() - ((scores > 0) == data.yt).mean())
        assert auc[0, i] == pytest.approx(roc_auc_score(data.yt, moved) - roc_auc_score(data.yt, scores))


def test_auc_counts_ties_as_half():
    from upweight.objective.measures import AreaUnderCurve

    scores, labels = torch.tensor([0.1, 0.4, 0.4, 0.8, 0.4]).double(), torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    found = AreaUnderCurve().values(scores[:, None, None], labels[:, None])
    assert float(found) == pytest.approx(roc_auc_score(labels, scores))


def test_a_callable_over_the_set_and_one_for_each_query(binary):
    study, data = binary
    brier = study.drop(data.query, measure=lambda f, y: (torch.sigmoid(f) - y) ** 2)
    mean = study.drop(data.query, measure=lambda f, y: ((torch.sigmoid(f) - y) ** 2).mean(), aggregate="set")
    np.testing.assert_allclose(mean.values[0], brier.values.mean(0), atol=1e-14)
    np.testing.assert_allclose(
        study.drop(data.query, measure=lambda f, y: (torch.sigmoid(f) - y) ** 2, aggregate="mean").values,
        mean.values,
        atol=1e-14,
    )


@pytest.mark.parametrize("order", ["newton", "first"])
def test_aggregates_are_sums_and_means_of_queries(binary, order):
    study, data = binary
    each = study.drop(data.query, order=order).values
    np.testing.assert_allclose(
        study.drop(data.query, order=order, aggregate="mean").values[0], each.mean(0), atol=1e-14
    )
    np.testing.assert_allclose(study.drop(data.query, order=order, aggregate="sum").values[0], each.sum(0), atol=1e-13)


def test_solving_for_changes_equals_solving_for_queries(binary):
    study, data = binary
    whole = study.drop(data.query).values
    few = study.drop(data.query, which=[3, 17]).values
    np.testing.assert_allclose(few, whole[:, [3, 17]], atol=1e-13)


def test_a_probability_s_drop_is_the_refitted_probability(binary):
    study, data = binary
    found = study.drop(data.query, measure="probability", which=[2, 40]).values
    for column, i in enumerate([2, 40]):
        weights = study.fitted.weights.clone()
        weights[i] = 0
        theta, before = refit(study.fitted, weights).numpy(), study.objective.theta.numpy()
        p = [1 / (1 + np.exp(-(2 * data.yt - 1) * (data.Xt @ t[:4] + t[4]))) for t in (before, theta)]
        np.testing.assert_allclose(found[:, column], p[1] - p[0], rtol=0.1, atol=2e-4)


def test_queries_without_targets_can_be_predicted(binary):
    study, data = binary
    np.testing.assert_array_equal(
        study.drop((data.Xt, None), measure="prediction").values, study.drop(data.query, measure="prediction").values
    )
