"""A model is handed back exactly as found: parameters, buffers, modes, gradients, random state and flags."""

import copy

import pytest
import torch
from torch import nn

import upweight as uw


class Counting(nn.Module):
    """A network with running statistics, dropout, a buffer it writes to, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))
        self.hidden.requires_grad_(False)

    def forward(self, x):
        self.calls += 1
        return self.head(self.drop(torch.tanh(self.hidden(self.norm(x)))))


def snapshot(model):
    return {
        "state": copy.deepcopy(model.state_dict()),
        "modes": [module.training for module in model.modules()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "rng": torch.get_rng_state(),
        "flags": (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
        ),
    }


def assert_unchanged(model, before):
    after = snapshot(model)
    for name, value in before["state"].items():
        assert torch.equal(after["state"][name], value), name
    assert torch.equal(after["rng"], before["rng"])
    for key in ("modes", "requires", "hooks", "flags"):
        assert after[key] == before[key], key
    for old, new in zip(before["grads"], after["grads"], strict=True):
        assert (old is None) == (new is None) and (old is None or torch.equal(old, new))


def prepared():
    torch.manual_seed(0)
    model = Counting().double()
    model.hidden.eval()
    X, y = torch.randn(12, 3).double(), torch.arange(12) % 2
    model(X).sum().backward()
    return model, X, y


@pytest.mark.parametrize("parameters", ["head.*", ["norm.*", "head.*"]])
@pytest.mark.filterwarnings(
    "ignore::upweight.errors.NotStationaryWarning", "ignore::upweight.errors.ApproximationWarning"
)
def test_every_question_leaves_the_model_as_found(parameters):
    model, X, y = prepared()
    before = snapshot(model)
    with pytest.warns(uw.errors.ModeWarning, match="train mode"):
        study = uw.Study(model, (X, y), loss="cross_entropy", penalty=uw.L2(0.5), parameters=parameters)
    query = (X[:3], y[:3])
    (
        study.drop(query),
        study.upweight(query),
        study.parameters([1]),
        study.perturb([1], query),
        study.relabel({0: 1}, query),
    )
    (
        study.drop_group([[0, 1]], query),
        study.self_influence(),
        study.newton_step(0, 0.1),
        study.trust(),
        study.check(query, refits=4),
        study.mislabeled(3),
    )
    assert_unchanged(model, before)


@pytest.mark.filterwarnings("ignore::upweight.errors.ModeWarning")
def test_a_question_that_raises_leaves_the_model_as_found():
    model, X, y = prepared()
    bad = y.clone()
    bad[3] = 9
    before = snapshot(model)
    with pytest.raises(uw.errors.LabelError):
        uw.Study(model, (X, bad), loss="cross_entropy")
    assert_unchanged(model, before)
    study = uw.Study(model, (X, y), loss="cross_entropy", penalty=uw.L2(0.5))

    def explode(outputs, targets):
        raise RuntimeError("from the user's measure")

    with pytest.raises(RuntimeError, match="user's measure"):
        study.drop((X, y), measure=explode)
    assert_unchanged(model, before)


def test_the_user_s_arrays_are_not_written_to():
    import numpy as np

    X, y = np.random.default_rng(0).standard_normal((10, 3)), np.arange(10) % 2
    X.setflags(write=False), y.setflags(write=False)
    model = nn.Linear(3, 2).double().eval()
    with pytest.warns(uw.errors.NotStationaryWarning):
        assert uw.Study(model, (X, y), loss="cross_entropy", penalty=uw.L2(0.1)).drop((X, y)).values.shape == (10, 10)


def test_a_layer_with_two_names_is_handed_back_as_found():
    """torch.func puts a copy back in place of the parameters and buffers of a module it knows by two names."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
            self.again, self.norm_again = self.first, self.norm

        def forward(self, x):
            return self.head(self.norm_again(self.again(torch.tanh(self.norm(self.first(x))))))

    torch.manual_seed(0)
    model, X = Twice().double().eval(), torch.randn(9, 3).double()
    tensors = [*model.parameters(), *model.buffers()]
    study = uw.Study(model, (X, torch.arange(9) % 2), loss="cross_entropy", penalty=uw.L2(0.5), curvature="ggn")
    with pytest.warns(uw.errors.NotStationaryWarning):
        study.drop((X, torch.arange(9) % 2))
    assert all(a is b for a, b in zip([*model.parameters(), *model.buffers()], tensors, strict=True))
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in tensors[: len([*model.parameters()])])
