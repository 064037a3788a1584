"""Proximal Bregman responses: the objective written out by hand, its derivative, and what it says of a network beside a refit."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as load
from torch import nn
from torch.nn import functional as F

import upweight as uw
from cases import classification, mlp, pearson, slope
from networks import trained
from upweight.evaluate import Refits, Training
from upweight.evaluate.altered import Altered
from upweight.evaluate.bregman import proximal_diagonal, responses
from upweight.evaluate.descent import descend

pytestmark = pytest.mark.filterwarnings(
    "ignore::upweight.errors.NotStationaryWarning", "ignore::upweight.errors.ApproximationWarning"
)
N, DAMPING, DECAY = 30, 0.02, 0.01
DATA = classification(N, 3, 4, 3, seed=2)
X, Y = torch.as_tensor(DATA.X), torch.as_tensor(DATA.y)


def stopped() -> nn.Module:
    """A small network that was stopped long before it converged."""
    model = mlp(3, 5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    return model


def study(**settings) -> uw.Study:
    made = {"curvature": "ggn", "damping": DAMPING, "penalty": uw.L2(DECAY)} | settings
    return uw.Study(stopped(), (X, Y), loss="cross_entropy", **made)


def objective(model: nn.Module, anchor: nn.Module, weights, proximity, decay: float, share: float):
    """Σ wD + Σ(w′ − w)ℓ + ½(λ + d)‖θ − θˢ‖² + ρ r, every term as it is defined, from plain torch."""
    a, b = model(X), anchor(X).detach()
    own, before = F.cross_entropy(a, Y, reduction="none"), F.cross_entropy(b, Y, reduction="none")
    slope = torch.softmax(b, 1) - F.one_hot(Y, 3)
    bregman = own - before - (slope * (a - b)).sum(1)
    moves = torch.cat([(p - q).flatten() for p, q in zip(model.parameters(), anchor.parameters(), strict=True)])
    size = sum(p.square().sum() for p in model.parameters())
    changed = ((weights - 1 / N) * own).sum() + 0.5 * share * decay * size
    return bregman.mean() + changed + 0.5 * ((proximity + decay) * moves.square()).sum()


def minimised(anchor: nn.Module, weights, proximity, decay: float, share: float) -> torch.Tensor:
    """The same minimum by torch's own L-BFGS."""
    model = mlp(3, 5, 3)
    model.load_state_dict(anchor.state_dict())
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimizer.zero_grad()
        value = objective(model, anchor, weights, proximity, decay, share)
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


WEIGHTINGS = {
    "a point left out": torch.where(torch.arange(N) == 4, 0.0, 1 / N).double(),
    "half left out": torch.where(torch.arange(N) % 2 == 0, 0.0, 1 / N).double(),
    "others raised": torch.full((N,), 1 / N, dtype=torch.float64) * (1 + 0.9 * torch.cos(torch.arange(N))),
}


@pytest.mark.parametrize("protocol", ["fixed_mean", "fixed_total"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_response_is_the_minimum_of_the_objective_as_written(weighting, protocol):
    asked, weights = study(protocol=protocol), WEIGHTINGS[weighting]
    found = responses(asked.fitted, [Altered(weights)], False)
    share = float(weights.sum()) - 1 if protocol == "fixed_mean" else 0.0
    expected = minimised(asked.objective.model, weights, DAMPING, DECAY, share)
    start = asked.objective.theta
    assert float((found.thetas[0] - expected).norm() / (expected - start).norm()) < 1e-4
    assert found.residual <= 1e-5


def test_where_nothing_changes_nothing_moves_however_far_from_a_minimum():
    asked = study(penalty=None)
    assert not asked.fitted.stationarity.reached
    found = responses(asked.fitted, [Altered(asked.fitted.weights)], False)
    assert float((found.thetas[0] - asked.objective.theta).abs().max()) < 1e-14


@pytest.mark.parametrize("solver", ["auto", "block_cg"])
def test_its_derivative_is_the_damped_gauss_newton_influence(solver):
    """Finite differences in a point's weight, against −(G + ∇²r + λ)⁻¹(∇ℓ + ∇r) of the study."""
    asked, step = study(solver=solver), 1e-4
    ends = []
    for sign in (1, -1):
        weights = asked.fitted.weights.clone()
        weights[6] += sign * step
        ends.append(responses(asked.fitted, [Altered(weights)], False).thetas[0])
    found = ((ends[0] - ends[1]) / (2 * step)).numpy()
    expected = asked.parameters([6]).values[0]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_new_labels_and_points_respond_too():
    """Under much damping a response is linear, whatever comes in or changes."""
    asked = study(damping=2.0)
    refits, other = Refits(asked, truth="pbrf"), {3: int(1 - min(Y[3], 1)), 8: int(2 - Y[8] // 2)}
    pairs = {
        "relabel": (refits.relabel(other, DATA.query), asked.relabel(other, DATA.query, order="first")),
        "add": (refits.add(DATA.query, DATA.query), asked.add(DATA.query, DATA.query, order="first")),
        "group": (refits.drop_group([[1, 2, 3]], DATA.query), asked.drop_group([[1, 2, 3]], DATA.query, order="first")),
    }
    for name, (real, predicted) in pairs.items():
        assert pearson(real, predicted) > 0.995 and 0.85 < slope(real, predicted) < 1.15, name
        assert real.effects.order == "pbrf" and "proximal Bregman response" in repr(real)


def test_each_block_of_ekfac_is_held_by_its_own_damping():
    asked = study(curvature="ekfac", damping=uw.Relative(0.5))
    found = proximal_diagonal(asked.fitted)
    for layout, block in asked.fitted.blocked.curvature.parts:
        own = layout.gather(found[None])
        torch.testing.assert_close(own, torch.full_like(own, 0.5 * float(block.values.mean())))
    weights = WEIGHTINGS["a point left out"]
    theta = responses(asked.fitted, [Altered(weights)], False).thetas[0]
    expected = minimised(asked.objective.model, weights, found, DECAY, -1 / N)
    assert float((theta - expected).norm() / (expected - asked.objective.theta).norm()) < 1e-4


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer", "lstm"])
def test_damped_gauss_newton_predicts_the_responses_of_real_networks(name):
    """A tenth of a point's weight at a time, so that first order is meant: of 96 points one whole one moves far."""
    net = trained(name)
    asked = uw.Study(net.model, net.data, loss="cross_entropy", penalty=uw.L2(1e-3), curvature="ggn", solver="block_cg", damping=0.1)  # fmt: skip
    which = list(range(0, len(net.y), 8))
    weights = np.full((len(which), len(net.y)), 1 / len(net.y))
    weights[range(len(which)), which] *= 0.9
    found = Refits(asked, truth="pbrf", progress=False).reweight(weights, net.query).effects
    real, predicted = found.values, 0.1 * asked.drop(net.query, which=which).values
    print(f"{name}: Pearson {pearson(real, predicted):.5f}, slope {slope(real, predicted):.4f}; {found.verdict}")
    assert pearson(real, predicted) > 0.99 and 0.9 < slope(real, predicted) < 1.1


def unfinished(points: int) -> tuple[Training, uw.Study, tuple[torch.Tensor, torch.Tensor]]:
    """A network on digits with wrong labels among them, stopped after a few epochs; its study; twenty queries."""
    images, labels = load(n_class=4, return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))[: points + 20]
    images = torch.as_tensor(images[order] / 16, dtype=torch.float64)
    labels = torch.as_tensor(np.where(rng.random(points + 20) < 0.15, rng.integers(0, 4, points + 20), labels[order]))
    data, query = (images[:points], labels[:points]), (images[points:], labels[points:])
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)
    run = Training(digits_mlp, data, "cross_entropy", optimizer, epochs=4, batch_size=20)
    asked = uw.Study(run.model(run(run.equal_weights, 0)), data, loss="cross_entropy", penalty=uw.L2(1e-3), curvature="ggn", damping=0.05)  # fmt: skip
    return run, asked, query


def digits_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def test_a_network_that_did_not_converge_is_checked_both_ways_and_they_differ():
    """The response confirms the arithmetic; retraining alone can say what λ and the linearisation are worth."""
    run, asked, query = unfinished(500)
    response = asked.check(query, refits=24, progress=False)
    retrained = asked.check(query, refits=24, train=run, progress=False)
    print(f"response {response!r}\nretrained {retrained!r}")
    assert response.truth == "pbrf" and response.pearson > 0.99 and 0.9 < response.slope < 1.1
    assert retrained.truth == "refit" and retrained.pearson < response.pearson - 0.01
    assert abs(retrained.slope - 1) > abs(response.slope - 1)
    assert "as arithmetic; it says nothing about λ or about retraining" in response.sentence
    assert "24 proximal responses" in repr(response) and "24 real refits" in repr(retrained)


def test_what_has_no_response_is_refused():
    with pytest.raises(
        uw.errors.ConfigError, match=r"damping=Segment.*a filter of no one λ. Expected a number or uw.Rel"
    ):
        proximal_diagonal(study(curvature="ekfac", damping=uw.Segment(1.0)).fitted)
    with pytest.raises(uw.errors.ConfigError, match=r"neither damping nor a penalty .* Expected λ above zero"):
        proximal_diagonal(study(damping=0.0, penalty=None).fitted)


def test_a_response_that_does_not_arrive_is_not_believed(monkeypatch):
    monkeypatch.setattr("upweight.evaluate.bregman.ITERATIONS", 1)
    with pytest.raises(
        uw.errors.NotConverged, match=r"stopped after 1 iterations with a gradient of .* Expected 1e-05"
    ):
        responses(study(damping=1e-4).fitted, [Altered(WEIGHTINGS["half left out"])], False)


def test_members_descend_side_by_side_each_to_its_own_minimum():
    """Quadratics of very different scales, one of them at its minimum already, and a valley that needs many steps."""
    g = torch.Generator().manual_seed(0)
    roots = torch.randn(4, 6, 6, generator=g, dtype=torch.float64)
    matrices = roots @ roots.mT + torch.tensor([1e-2, 1.0, 10.0, 1e-4], dtype=torch.float64).view(4, 1, 1) * torch.eye(
        6
    )
    centres = torch.randn(4, 6, generator=g, dtype=torch.float64)
    centres[1] = 0

    def evaluate(points, members):
        away = points - centres[members]
        gradients = torch.einsum("kpq,kq->kp", matrices[members], away)
        return 0.5 * (away * gradients).sum(1), gradients

    found = descend(
        evaluate, torch.zeros(4, 6, dtype=torch.float64), lambda rows: rows, torch.full((4,), 1e-9).double(), 300
    )
    torch.testing.assert_close(found.points, centres, rtol=1e-5, atol=1e-5)
    assert float(found.norms.max()) <= 1e-9 and torch.equal(found.points[1], centres[1])
    few = descend(
        evaluate, torch.zeros(4, 6, dtype=torch.float64), lambda rows: rows, torch.full((4,), 1e-9).double(), 2
    )
    assert few.iterations == 2 and float(few.norms.max()) > 1e-9


def test_responses_do_not_depend_on_how_many_are_taken_together(monkeypatch):
    asked = study()
    changes = [Altered(row) for row in WEIGHTINGS.values()]
    whole = responses(asked.fitted, changes, False).thetas
    monkeypatch.setattr("upweight.evaluate.bregman.KEPT_BYTES", 1)
    alone = responses(asked.fitted, changes, False).thetas
    assert float((whole - alone).abs().max()) < 1e-5 * float((whole - asked.objective.theta).abs().max())
