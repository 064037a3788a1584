"""Closed forms equal the general engine, and the general engine equals plain autograd."""

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from upweight.adapters.torch import Form, adapt_module
from upweight.gradients import LinearEngine, VmapEngine, engine_for

torch.manual_seed(0)
LOSSES = {
    "cross_entropy": (3, lambda n: torch.arange(n) % 3),
    "binary_cross_entropy": (1, lambda n: (torch.arange(n) % 2).double()[:, None]),
    "squared_error": (2, lambda n: torch.randn(n, 2, dtype=torch.float64)),
    "poisson": (1, lambda n: (torch.arange(n) % 4).double()[:, None]),
    "smooth_hinge": (1, lambda n: (2 * (torch.arange(n) % 2) - 1).double()[:, None]),
    "callable": (2, lambda n: torch.randn(n, 2, dtype=torch.float64)),
}


def engines(name: str, bias: bool = True, parameters: str = "*", trunk: bool = False):
    outputs, make = LOSSES[name]
    torch.manual_seed(1)
    head = nn.Linear(4, outputs, bias=bias)
    model = (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), head) if trunk else head).double().eval()
    X = torch.randn(11, 4, dtype=torch.float64)
    loss = {"smooth_hinge": uw.smooth_hinge(0.5), "callable": lambda f, y: ((f - y) ** 4).sum(1) + f.prod(1)}.get(
        name, name
    )
    objective = adapt_module(model, (X, make(11)), Form(loss, parameters=parameters)).objective
    return engine_for(objective), VmapEngine(objective)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("bias", "parameters", "trunk"),
    [(True, "*", False), (False, "*", False), (True, "weight", False), (True, "bias", False), (True, "2.*", True)],
)
def test_closed_forms_equal_the_general_engine(name, bias, parameters, trunk):
    fast, general = engines(name, bias, parameters, trunk)
    assert isinstance(fast, LinearEngine)
    objective = fast.objective
    batch = objective.examples.read(slice(0, 11))
    weights = torch.linspace(0.5, 1.5, 11, dtype=torch.float64)
    torch.testing.assert_close(fast.outputs(batch)[0], general.outputs(batch)[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(fast.gradients(batch).dense(), general.gradients(batch).dense(), atol=1e-11, rtol=0)
    torch.testing.assert_close(fast.jacobian(batch).dense(), general.jacobian(batch).dense(), atol=1e-11, rtol=0)
    torch.testing.assert_close(
        fast.hessian(objective.examples, weights), general.hessian(objective.examples, weights), atol=1e-9, rtol=1e-9
    )
    s = torch.randn(objective.space.size, dtype=torch.float64)
    torch.testing.assert_close(fast.curvature_times(batch, s), general.curvature_times(batch, s), atol=1e-9, rtol=1e-9)
    moved = objective.theta + 0.1
    torch.testing.assert_close(fast.gradient(weights, moved), general.gradient(weights, moved), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(fast.value(weights, moved), general.value(weights, moved), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_and_hessians_equal_plain_autograd(name):
    _, engine = engines(name, trunk=True)
    objective = engine.objective
    X, y = objective.examples.read(slice(0, 11))
    model, space = objective.model, objective.space

    def loss(theta, i):
        outputs = torch.func.functional_call(model, space.unflatten(theta), (X[i : i + 1],))
        return objective.loss.values(*objective.loss.prepare(outputs, y[i : i + 1]))[0]

    theta = objective.theta.clone()
    rows = engine.gradients((X, y)).dense()
    for i in (0, 10):
        torch.testing.assert_close(
            rows[i], torch.autograd.functional.jacobian(lambda t, i=i: loss(t, i), theta), atol=1e-11, rtol=0
        )
    total = sum(torch.autograd.functional.hessian(lambda t, i=i: loss(t, i), theta) for i in range(11))
    torch.testing.assert_close(
        engine.hessian(objective.examples, torch.ones(11, dtype=torch.float64)), total, atol=1e-8, rtol=1e-8
    )


def test_a_weight_used_twice_is_not_taken_for_a_linear_head():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(torch.tanh(x @ self.layer.weight.T))

    torch.manual_seed(0)
    model = Tied().double().eval()
    objective = adapt_module(
        model, (torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3), Form("cross_entropy")
    ).objective
    assert not isinstance(engine_for(objective), LinearEngine)


def test_a_linear_layer_followed_by_anything_is_not_taken_for_a_linear_model():
    model = nn.Sequential(nn.Linear(3, 3), nn.Softplus()).double().eval()
    objective = adapt_module(
        model, (torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3), Form("cross_entropy")
    ).objective
    assert not isinstance(engine_for(objective), LinearEngine)


@pytest.mark.parametrize(
    "module",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1),
        nn.MSELoss(),
        nn.MSELoss(reduction="sum"),
        nn.BCEWithLogitsLoss(),
    ],
)
def test_an_nn_loss_of_any_reduction_is_its_per_example_form(module):
    torch.manual_seed(2)
    outputs = torch.randn(5, 3, dtype=torch.float64)
    targets = torch.arange(5) % 3 if isinstance(module, nn.CrossEntropyLoss) else torch.rand(5, 3, dtype=torch.float64)
    model = nn.Linear(3, 3).double().eval()
    objective = adapt_module(model, (outputs, targets), Form(module)).objective
    flat, prepared = engine_for(objective).outputs((outputs, targets))
    found = objective.loss.values(flat, prepared)
    for i in range(5):
        one = module(model(outputs[i : i + 1]), targets[i : i + 1])
        torch.testing.assert_close(found[i], one.detach(), atol=1e-12, rtol=0)


def test_dict_batches_go_through_a_forward():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 3)).double().eval()
    data = {"a": torch.randn(8, 2).double(), "b": torch.randn(8, 3).double(), "label": torch.arange(8) % 3}

    def products(batch):
        return torch.einsum("ni,nj->nij", batch["a"], batch["b"]).flatten(1)

    def study_of(data, **form):
        with pytest.warns(uw.errors.NotStationaryWarning):
            study = uw.Study(model, data, loss="cross_entropy", penalty=uw.L2(5.0), **form)
            return study, study.drop(
                {key: value[:2] for key, value in data.items()} if form else (data[0][:2], data[1][:2])
            )

    study, effects = study_of(data, forward=lambda m, batch: (m(products(batch)), batch["label"]))
    _, expected = study_of((products(data), data["label"]))
    np.testing.assert_allclose(effects.values, expected.values, atol=1e-12)
    with pytest.raises(uw.errors.ConfigError, match="one floating-point tensor"):
        study.perturb([0], {key: value[:2] for key, value in data.items()})


class OtherBeyond(nn.Module):
    """A linear layer whose outputs are doubled where the first input is not above zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * (1 + (x[:, :1] <= 0).to(x.dtype))


def test_a_model_that_is_linear_on_its_first_examples_alone_is_not_taken_for_a_linear_model():
    torch.manual_seed(0)
    X = torch.randn(60, 3, dtype=torch.float64)
    X = X[X[:, 0].argsort(descending=True)]
    objective = adapt_module(OtherBeyond().double().eval(), (X, torch.arange(60) % 3), Form("cross_entropy")).objective
    assert not isinstance(engine_for(objective), LinearEngine)


class Reciprocal(OtherBeyond):
    """A linear layer divided by what is zero at one example."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) / (x[:, :1] - 0.25)


@pytest.mark.parametrize("place", [0, 3, 7, 30])
def test_an_infinite_output_is_named_wherever_it_lies(place):
    torch.manual_seed(0)
    X = torch.randn(60, 3, dtype=torch.float64)
    X[place, 0] = 0.25
    with pytest.raises(uw.errors.NonFiniteGradient, match=rf"example {place}\b"):
        uw.Study(Reciprocal().double().eval(), (X, torch.arange(60) % 3), loss="cross_entropy")
