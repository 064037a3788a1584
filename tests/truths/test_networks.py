"""Real networks trained on real data: every gradient, block and score against plain autograd, and drops against refits."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from test_side_effects import assert_unchanged, snapshot
from torch import nn
from torch.nn import functional as F

import upweight as uw
from cases import pearson, slope
from networks import CLASSES, MAKE, TRAINED, Trained, dense_ekfac_inverse, plain_gradients, relative, trained

pytestmark = pytest.mark.filterwarnings(
    "ignore::upweight.errors.NotStationaryWarning",  # Adam stops where it stops
    "ignore::upweight.errors.ApproximationWarning",
)
PENALTY, SHARE = 1e-3, 0.1
RULED = nn.Linear, nn.Conv2d, nn.GroupNorm, nn.BatchNorm2d, nn.LayerNorm
WITHOUT_A_RULE = {"transformer": "positions", "built-in transformer": "self_attn|positions", "lstm": "cell"}


def study_of(net: Trained, **settings) -> uw.Study:
    settings = {"curvature": "ekfac", "penalty": uw.L2(PENALTY), "damping": uw.Relative(SHARE)} | settings
    return uw.Study(net.model, net.data, loss="cross_entropy", **settings)


@pytest.mark.parametrize("name", MAKE)
def test_the_network_has_learned(name):
    net = trained(name)
    assert (net.model(net.X).argmax(1) == net.y).double().mean() >= 0.9


@pytest.mark.parametrize("name", MAKE)
def test_every_layer_is_served_by_its_own_rule(name):
    net = trained(name)
    study = study_of(net)
    found = study.fitted.engine.coverage
    expected = {
        f"{place}.{key}": type(module).__name__
        for place, module in net.model.named_modules()
        if type(module) in RULED
        for key, _ in module.named_parameters(recurse=False)
    }
    left = set(found) - set(expected)
    assert {key: found[key] for key in expected} == expected
    assert all(any(word in key for word in WITHOUT_A_RULE.get(name, "").split("|")) for key in left)
    assert {found[key] for key in left} <= {"one by one" if name == "lstm" else "vmap"}
    assert bool(left) == (name in WITHOUT_A_RULE)


@pytest.mark.parametrize("name", MAKE)
def test_gradients_equal_plain_autograd_one_by_one(name):
    net = trained(name)
    study, truth = study_of(net), plain_gradients(net.model, net.X, net.y)
    assert relative(uw.rows(study.objective).dense(), truth) < 1e-8
    of_queries = study.fitted.engine.gradients(net.query).dense()
    assert relative(of_queries, plain_gradients(net.model, net.Xt, net.yt)) < 1e-8


@pytest.mark.parametrize("name", MAKE)
def test_first_order_drops_are_a_product_of_three_plain_matrices(name):
    """−T P Cᵀ with T and C from autograd one by one, and P the EK-FAC inverse written out from hooks of the test's own."""
    net = trained(name)
    theta = torch.cat([p.detach().flatten() for p in net.model.parameters()])
    T = plain_gradients(net.model, net.Xt, net.yt)
    C = -(plain_gradients(net.model, net.X, net.y) + PENALTY * theta) / TRAINED
    P = dense_ekfac_inverse(net.model, net.X, PENALTY, SHARE)
    found = study_of(net).drop(net.query, order="first").values
    assert relative(found, -T @ P @ C.T) < 1e-6


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm"])
def test_replacing_and_relabelling_are_differences_of_gradients(name):
    net, which = trained(name), [3, 10]
    T, P = plain_gradients(net.model, net.Xt, net.yt), dense_ekfac_inverse(net.model, net.X, PENALTY, SHARE)
    old, others = plain_gradients(net.model, net.X[which], net.y[which]), (net.y[which] + 1) % CLASSES
    study = study_of(net)
    found = study.replace(which, (net.Xt[:2], net.yt[:2]), net.query, order="first").values
    assert relative(found, -T @ P @ (T[:2] - old).T / TRAINED) < 1e-6
    found = study.relabel(dict(zip(which, others.tolist(), strict=True)), net.query, order="first").values
    assert relative(found, -T @ P @ (plain_gradients(net.model, net.X[which], others) - old).T / TRAINED) < 1e-6
    corrected = study.replace(which, (net.X[which], others), net.query).values
    assert relative(corrected, study.relabel(dict(zip(which, others.tolist(), strict=True)), net.query).values) < 1e-6


@pytest.mark.parametrize(("name", "order"), [*((name, "first") for name in MAKE), ("mlp", "newton"), ("cnn", "newton")])
def test_drops_do_not_depend_on_the_batch_size(name, order):
    net = trained(name)
    few = replace(net, X=net.X[:9], y=net.y[:9])
    whole = study_of(few).drop(net.query, order=order).values
    for batch_size in (1, 7):
        assert relative(study_of(few, batch_size=batch_size).drop(net.query, order=order).values, whole) < 1e-8


@pytest.mark.parametrize("name", MAKE)
def test_float32_networks_give_the_answers_of_float64(name):
    """The same penalty, blocks and orders; rounding of float32 through EK-FAC's eigenvectors."""
    net = trained(name)
    net = replace(net, X=net.X[:24], y=net.y[:24])
    single = replace(net, model=copy.deepcopy(net.model).float(), X=net.X.float(), Xt=net.Xt.float())
    studies = study_of(single), study_of(net)
    for order in ("first", "newton"):
        found, truth = (study.drop(each.query, order=order).values for study, each in zip(studies, (single, net)))
        assert relative(found, truth) < 5e-3, order


@pytest.mark.parametrize("name", MAKE)
def test_the_network_is_handed_back_as_found(name):
    net = trained(name)
    model = copy.deepcopy(net.model).train()
    next(model.parameters()).requires_grad_(False)
    F.cross_entropy(model(net.X), net.y).backward()
    before = snapshot(model)
    with pytest.warns(uw.errors.ModeWarning, match="train mode"):
        study = study_of(replace(net, model=model, X=net.X[:24], y=net.y[:24]))
    study.drop(net.query, order="first"), study.drop(net.query), study.self_influence()
    assert_unchanged(model, before)


def fitted(model: nn.Module, net: Trained, weights: torch.Tensor, penalty: float) -> nn.Module:
    """A minimum of Σwℓ + ½λ‖θ‖² from where the model is, by plain torch: L-BFGS."""
    model = copy.deepcopy(model)
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=2000, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = weights @ F.cross_entropy(model(net.X), net.y, reduction="none")
        value = value + 0.5 * penalty * sum(p.square().sum() for p in model.parameters())
        value.backward()
        return value

    optimiser.step(closure)
    return model


@dataclass(frozen=True)
class Stationary:
    """A network at a minimum of its mean loss with weight decay."""

    net: Trained
    weights: torch.Tensor
    penalty: float = 5e-3

    def study(self, curvature: str) -> uw.Study:
        penalty = uw.L2(self.penalty)
        return study_of(self.net, curvature=curvature, damping="auto", penalty=penalty, protocol="fixed_total")

    def losses(self, model: nn.Module) -> np.ndarray:
        return F.cross_entropy(model(self.net.Xt), self.net.yt, reduction="none").detach().numpy()

    def refitted(self, i: int, share: float = 1.0) -> np.ndarray:
        """What taking a share of a point's weight away and training on does to every query's loss."""
        weights = self.weights.clone()
        weights[i] *= 1 - share
        model = fitted(self.net.model, self.net, weights, self.penalty)
        return self.losses(model) - self.losses(self.net.model)


@pytest.fixture(scope="module")
def at_a_minimum() -> Stationary:
    start = Stationary(trained("mlp"), torch.full((TRAINED,), 1 / TRAINED).double())
    model = fitted(start.net.model, start.net, start.weights, start.penalty)
    return replace(start, net=replace(start.net, model=model))


@pytest.fixture(scope="module")
def left_out(at_a_minimum) -> tuple[np.ndarray, np.ndarray]:
    """The points of most influence, and what training on without each of them does to the queries."""
    effects = at_a_minimum.study("ggn").drop(at_a_minimum.net.query).values
    top = np.argsort(-np.abs(effects).sum(0))[:8]
    return top, np.stack([at_a_minimum.refitted(i) for i in top], 1)


@pytest.mark.parametrize(("curvature", "lowest", "highest"), [("ggn", 0.65, 1.0), ("hessian", 0.95, 1.35)])
def test_drops_of_a_network_forecast_what_refitting_does(at_a_minimum, left_out, curvature, lowest, highest):
    """One Newton step for a point that matters; the Gauss-Newton matrix leaves out the residuals' own curvature."""
    effects = at_a_minimum.study(curvature).drop(at_a_minimum.net.query)
    top, truth = left_out
    predicted = effects.values[:, top]
    print(f"{curvature}: Pearson {pearson(truth, predicted):.4f}, slope {slope(truth, predicted):.4f}")
    assert effects.order == "newton"
    assert pearson(truth, predicted) >= 0.95
    assert lowest <= slope(truth, predicted) <= highest


def test_first_order_effects_are_the_derivative_of_refitting(at_a_minimum, left_out):
    share, top = 0.01, left_out[0][:4]
    predicted = at_a_minimum.study("hessian").drop(at_a_minimum.net.query, order="first").values[:, top]
    truth = np.stack([at_a_minimum.refitted(i, share) for i in top], 1) / share
    print(f"Pearson {pearson(truth, predicted):.6f}, slope {slope(truth, predicted):.5f}")
    assert relative(predicted, truth) < 0.02
    assert 0.98 <= slope(truth, predicted) <= 1.02
