"""Derivatives against finite differences of real refits: in a point's weight, and in its input."""

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from cases import classification, fit, fitted_mlp, mlp, pearson, slope

ce = nn.CrossEntropyLoss(reduction="none")


def refitted_losses(X, y, weights, penalty, query, hidden=2, start=None):
    """Losses of the queries after minimising Σwℓ + ½λ‖θ‖² from given parameters, by plain torch."""
    model = mlp(3, hidden, 3, 1)
    model.load_state_dict(start)
    fit(model, X, y, ce, weights, penalty, steps=0)
    return ce(model(torch.as_tensor(query[0])), torch.as_tensor(query[1])).detach().numpy()


@pytest.mark.parametrize("protocol", ["fixed_total", "fixed_mean"])
def test_upweight_is_the_derivative_of_refitting_in_the_weight(protocol):
    model, problem, _ = fitted_mlp()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.05), protocol=protocol)
    found = study.upweight(problem.query).values
    step = 1e-4
    for i in (0, 5, 33):
        sides = []
        for sign in (1, -1):
            weights = np.full(40, 1 / 40)
            weights[i] += sign * step
            penalty = 0.05 * (1 + sign * step if protocol == "fixed_mean" else 1)
            sides.append(
                refitted_losses(problem.X, problem.y, weights, penalty, problem.query, start=model.state_dict())
            )
        np.testing.assert_allclose(found[:, i], (sides[0] - sides[1]) / (2 * step), rtol=1e-5, atol=1e-5)


def test_perturb_is_the_derivative_of_refitting_in_the_input():
    model, problem, study = fitted_mlp()
    found = study.perturb([4, 9], problem.query).values
    assert found.shape == (3, 2, 3)
    step = 1e-4
    for k, i in enumerate([4, 9]):
        for feature in range(3):
            sides = []
            for sign in (1, -1):
                X = problem.X.copy()
                X[i, feature] += sign * step
                sides.append(
                    refitted_losses(X, problem.y, np.full(40, 1 / 40), 0.05, problem.query, start=model.state_dict())
                )
            np.testing.assert_allclose(
                found[:, k, feature], (sides[0] - sides[1]) / (2 * step), rtol=1e-4, atol=1e-4 * np.abs(found).max()
            )


@pytest.mark.parametrize(
    ("loss", "torch_loss"),
    [
        ("poisson", lambda f, y: torch.exp(f) - y * f),
        ("binary_cross_entropy", nn.functional.binary_cross_entropy_with_logits),
    ],
)
def test_upweight_of_other_losses_is_the_derivative_too(loss, torch_loss):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((30, 3))
    y = rng.integers(0, 2, 30).astype(float)
    per_example = (
        (lambda f, t: torch_loss(f, t, reduction="none").squeeze(1))
        if loss != "poisson"
        else (lambda f, t: torch_loss(f, t).squeeze(1))
    )

    def refitted(weights):
        model = nn.Linear(3, 1).double().eval()
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        return fit(model, X, y[:, None], per_example, weights, 0.1, steps=3)

    model = refitted(np.full(30, 1 / 30))
    found = (
        uw.Study(model, (X, y[:, None]), loss=loss, penalty=uw.L2(0.1), protocol="fixed_total")
        .parameters([3])
        .values[0]
    )
    sides = []
    for sign in (1, -1):
        weights = np.full(30, 1 / 30)
        weights[3] += sign * 1e-4
        sides.append(torch.cat([p.detach().reshape(-1) for p in refitted(weights).parameters()]).numpy())
    np.testing.assert_allclose(found, (sides[0] - sides[1]) / 2e-4, rtol=1e-5, atol=1e-6)


def test_relabel_add_and_replace_have_the_slope_of_refitting_a_softmax():
    problem = classification(n=80, p=3, classes=3, seed=2)
    model = nn.Linear(3, 3).double().eval()

    def refitted(X, y, weights, penalty=0.05):
        again = nn.Linear(3, 3).double().eval()
        again.load_state_dict(model.state_dict())
        fit(again, X, y, ce, weights, penalty, steps=3)
        return ce(again(torch.as_tensor(problem.Xt)), torch.as_tensor(problem.yt)).detach().numpy()

    fit(model, problem.X, problem.y, ce, np.full(80, 1 / 80), 0.05, steps=3)
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.05), protocol="fixed_total")
    before = refitted(problem.X, problem.y, np.full(80, 1 / 80))
    points = range(8)
    labels = {i: int((problem.y[i] + 1) % 3) for i in points}
    new = classification(n=8, p=3, classes=3, seed=9)
    found = {
        "relabel": study.relabel(labels, problem.query).values,
        "add": study.add((new.X, new.y), problem.query).values,
        "replace": study.replace(list(points), (new.X, new.y), problem.query).values,
    }
    true = {name: [] for name in found}
    even = np.full(80, 1 / 80)
    for i in points:
        y = problem.y.copy()
        y[i] = labels[i]
        true["relabel"].append(refitted(problem.X, y, even) - before)
        true["add"].append(
            refitted(np.vstack([problem.X, new.X[i]]), np.append(problem.y, new.y[i]), np.full(81, 1 / 80)) - before
        )
        X, y = problem.X.copy(), problem.y.copy()
        X[i], y[i] = new.X[i], new.y[i]
        true["replace"].append(refitted(X, y, even) - before)
    for name, values in found.items():
        truth = np.stack(true[name], 1)
        assert np.abs(truth).max(0).min() > 1e-4, "every change must move something"
        assert pearson(truth, values) > 0.995, name
        assert 0.93 < slope(truth, values) < 1.07, name  # one step of a change that is 1/80 of the data
