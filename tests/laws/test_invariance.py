"""Laws every number obeys: batch size, order of examples and parameters, scale of weights, precision, threads."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from cases import classification, fitted_mlp
from upweight.adapters.torch import Form, adapt_module
from upweight.gradients import engine_for, estimate_stationarity, measure_stationarity


class Net(nn.Module):
    """The same function with its parameters registered in either order, and a layer that can be frozen."""

    def __init__(self, reverse: bool = False) -> None:
        super().__init__()
        layers = {"first": nn.Linear(3, 2), "second": nn.Linear(2, 3)}
        for name in reversed(layers) if reverse else layers:
            self.add_module(name, layers[name])

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def net_study(reverse: bool = False, dtype=torch.float64, parameters="*", order=None, **settings):
    model, problem, _ = fitted_mlp()
    net = Net(reverse).to(torch.float64).eval()
    net.load_state_dict(
        {
            f"{new}.{kind}": model.state_dict()[f"{old}.{kind}"]
            for new, old in (("first", 0), ("second", 2))
            for kind in ("weight", "bias")
        }
    )
    X, y = (problem.X, problem.y) if order is None else (problem.X[order], problem.y[order])
    study = uw.Study(
        net.to(dtype), (X, y), loss="cross_entropy", penalty=uw.L2(0.05), parameters=parameters, **settings
    )
    return study, problem.query


def answers(study, query):
    """A number from every road through the library."""
    return {
        "drop": study.drop(query).values,
        "first": study.drop(query, order="first").values,
        "upweight": study.upweight(query).values,
        "mean": study.drop(query, aggregate="mean").values,
        "margin": study.drop(query, measure="margin").values,
        "accuracy": study.drop(query, measure="accuracy").values,
        "group": study.drop_group([[0, 1, 2]], query).values,
        "self": study.self_influence(),
        "leverage": study.leverage(),
    }


def assert_same(found, expected, atol=1e-10):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=atol * max(1, np.abs(value).max()), err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 7, 40, 1000])
def test_no_result_depends_on_the_batch_size(batch_size):
    assert_same(answers(*net_study(batch_size=batch_size)), answers(*net_study()))


@pytest.mark.parametrize("batch_size", [1, 13])
def test_no_closed_form_depends_on_the_batch_size(batch_size):
    assert_same(
        answers(*net_study(parameters="second.*", batch_size=batch_size)), answers(*net_study(parameters="second.*"))
    )


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_stationarity_weighs_every_example_by_its_own_weight(batch_size):
    model, problem, _ = fitted_mlp()
    weights = np.linspace(0.1, 2.0, 40) / 40
    study = uw.Study(
        model, (problem.X, problem.y), loss="cross_entropy", penalty=0.05, weights=weights, batch_size=batch_size
    )
    losses = nn.functional.cross_entropy(
        model(torch.as_tensor(problem.X)), torch.as_tensor(problem.y), reduction="none"
    )
    value = torch.as_tensor(weights) @ losses + 0.025 * sum(p.square().sum() for p in model.parameters())
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])
    torch.testing.assert_close(study.fitted.stationarity.gradient, expected)


def test_reordering_examples_reorders_the_columns():
    order = np.random.default_rng(0).permutation(40)
    study, query = net_study()
    shuffled, _ = net_study(order=order)
    np.testing.assert_allclose(shuffled.drop(query).values, study.drop(query).values[:, order], atol=1e-10)
    np.testing.assert_allclose(shuffled.self_influence(), study.self_influence()[order], atol=1e-10)


def test_the_order_of_parameters_changes_no_effect():
    assert_same(answers(*net_study(reverse=True)), answers(*net_study()))


def test_tracking_by_name_equals_freezing_the_rest():
    study, query = net_study(parameters="second.*")
    model = study.objective.model
    model.first.requires_grad_(False)
    frozen = uw.Study(model, study.objective.examples, loss="cross_entropy", penalty=uw.L2(0.05))
    assert frozen.objective.space.names == ("second.weight", "second.bias")
    assert_same(answers(frozen, query), answers(study, query))


def test_sum_weights_with_a_summed_penalty_equal_mean_weights():
    study, query = net_study()
    model, problem, _ = fitted_mlp()
    summed = uw.Study(
        model, (problem.X, problem.y), loss="cross_entropy", weights=np.ones(40), penalty=uw.L2(0.05 * 40)
    )
    for question in ("drop", "drop_first", "group"):
        ask = {
            "drop": lambda s: s.drop(query),
            "drop_first": lambda s: s.drop(query, order="first"),
            "group": lambda s: s.drop_group([[0, 5]], query),
        }[question]
        np.testing.assert_allclose(ask(summed).values, ask(study).values, atol=1e-10, err_msg=question)
    np.testing.assert_allclose(summed.upweight(query).values * 40, study.upweight(query).values, atol=1e-9)
    np.testing.assert_allclose(summed.leverage(), study.leverage(), atol=1e-10)


def test_float32_agrees_with_float64_to_single_precision():
    """Gradients and Hessians in float32, solves in float64: 1e-3 of the largest effect at condition number 50."""
    single = answers(*net_study(dtype=torch.float32))
    for name, value in answers(*net_study()).items():
        np.testing.assert_allclose(single[name], value, atol=1e-3 * max(np.abs(value).max(), 1e-12), err_msg=name)


def test_the_number_of_threads_changes_nothing_but_rounding():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = answers(*net_study())
        torch.set_num_threads(2)
        two = answers(*net_study())
    finally:
        torch.set_num_threads(threads)
    assert_same(one, two, atol=1e-11)


def test_a_point_of_weight_zero_has_no_effect_and_is_not_missed():
    problem = classification(n=30, p=3, classes=3)
    model = nn.Linear(3, 3).double().eval()
    weights = np.full(30, 1 / 29)
    weights[4] = 0
    kept = np.arange(30) != 4
    full = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.1), weights=weights)
    less = uw.Study(model, (problem.X[kept], problem.y[kept]), loss="cross_entropy", penalty=uw.L2(0.1))
    with pytest.warns(uw.errors.NotStationaryWarning):
        found = full.drop(problem.query).values
    with pytest.warns(uw.errors.NotStationaryWarning):
        expected = less.drop(problem.query).values
    np.testing.assert_array_equal(found[:, 4], 0)
    np.testing.assert_allclose(found[:, kept], expected, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 13])
@pytest.mark.parametrize("protocol", ["fixed_mean", "fixed_total"])
def test_with_weights_of_its_own_every_point_keeps_its_weight_in_any_batch(batch_size, protocol):
    """A slice of the weights that does not move with the batch would pass with equal weights."""
    weights = np.linspace(0.2, 3, 40) / 40
    settings = {"weights": weights, "protocol": protocol}
    small, query = net_study(batch_size=batch_size, **settings)
    whole, _ = net_study(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(answers(small, query), answers(whole, query))
        which = list(range(3, 37))
        np.testing.assert_allclose(
            small.perturb(which, query).values, whole.perturb(which, query).values, rtol=1e-8, atol=1e-12
        )
        single = np.concatenate([whole.perturb([i], query).values for i in which], 1)
        np.testing.assert_allclose(whole.perturb(which, query).values, single, rtol=1e-8, atol=1e-12)
        blocks, other = (
            net_study(curvature="ekfac", **extra, **settings)[0] for extra in ({"batch_size": batch_size}, {})
        )
        np.testing.assert_allclose(blocks.upweight(query).values, other.upweight(query).values, rtol=1e-8, atol=1e-12)


def test_the_hessian_and_the_fisher_weigh_every_example_by_its_own_weight():
    weights = np.linspace(0.2, 3, 40) / 40
    study, _ = net_study(weights=weights, batch_size=7)
    total = sum(
        w * uw.curvature.hessian(net_study(weights=np.eye(40)[i])[0].objective).dense() for i, w in enumerate(weights)
    )
    penalty = 0.05 * (1 - weights.sum()) * torch.eye(len(total), dtype=torch.float64)
    torch.testing.assert_close(uw.curvature.hessian(study.objective).dense(), total + penalty, atol=1e-10, rtol=1e-8)
    fisher = sum(
        w * uw.curvature.block_diagonal(net_study(weights=np.eye(40)[i])[0].objective, "exact").dense()
        for i, w in enumerate(weights)
    )
    found = uw.curvature.block_diagonal(study.objective, "exact").dense()
    torch.testing.assert_close(found, fisher + penalty, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("uneven", [False, True])
def test_the_estimated_gradient_norm_is_right_on_average_and_raises_no_false_alarm(uneven):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(3000, 4, generator=generator, dtype=torch.float64)
    y = (X @ torch.ones(4, 1, dtype=torch.float64)) + torch.randn(3000, 1, generator=generator, dtype=torch.float64)
    w = torch.ones(3000, dtype=torch.float64)
    if uneven:
        w[torch.randperm(3000, generator=generator)[:300]] = 10.0
    w = w / w.sum()
    fitted = torch.linalg.solve((X.T * w) @ X, (X.T * w) @ y)
    model = nn.Sequential(nn.Linear(4, 1, bias=False)).double().eval()
    for shift, least, most in ((0.0, 0, 2), (0.5, 20, 20)):
        model[0].weight.data = (fitted + shift).T.clone()
        found = []
        for _ in range(20):
            order = torch.randperm(3000, generator=generator)
            form = Form("squared_error", weights=w[order])
            engine = engine_for(adapt_module(model, (X[order], y[order]), form).objective)
            exact, guess = measure_stationarity(engine), estimate_stationarity(engine, 200)
            assert guess.sampled == 200 and exact.sampled == 0
            found.append((exact.ratio, guess.ratio, guess.reached))
        exact, guess, reached = np.asarray(found, dtype=float).T
        assert least <= (1 - reached).sum() <= most
        assert abs((guess**2).mean() - (exact**2).mean()) < 0.01 + 0.2 * (exact**2).mean()


def test_the_estimate_passes_over_points_without_weight():
    X, y = torch.randn(400, 3, dtype=torch.float64), torch.randn(400, 1, dtype=torch.float64)
    w = torch.zeros(400, dtype=torch.float64)
    w[7] = 1.0
    engine = engine_for(
        adapt_module(nn.Linear(3, 1).double().eval(), (X, y), Form("squared_error", weights=w)).objective
    )
    assert estimate_stationarity(engine, 20).ratio == pytest.approx(measure_stationarity(engine).ratio)
