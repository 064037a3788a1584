"""No Python loop runs over examples: twice the examples take the same number of tensor operations."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import upweight as uw

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.UpweightWarning")
MODELS = {
    "linear": (lambda: nn.Linear(6, 3), {}),
    "perceptron, exact": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), {"damping": 1.0}),
    "perceptron, EK-FAC": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
        {"curvature": "ekfac"},
    ),
    "convolutions, EK-FAC": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)),
        {"curvature": "ekfac"},
    ),
}
QUESTIONS = {
    "drop": lambda study, query: study.drop(query),
    "first order": lambda study, query: study.drop(query, order="first"),
    "self-influence": lambda study, query: study.self_influence(),
    "leverage": lambda study, query: study.leverage(),
    "relabel": lambda study, query: study.relabel(dict.fromkeys(range(study.fitted.objective.count), 0), query),
}
ALLOWED = {"relabel": 3}
"""Operations an example may add: a label in the user's terms is read one by one."""


class Counted(TorchDispatchMode):
    """Counts what is dispatched inside."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(name, question, n):
    torch.manual_seed(0)
    build, settings = MODELS[name]
    X, y = torch.randn(n + 4, 6, dtype=torch.float64), torch.arange(n + 4) % 3
    study = uw.Study(build().double().eval(), (X[:n], y[:n]), loss="cross_entropy", penalty=uw.L2(1.0), **settings)
    with Counted() as counted:
        QUESTIONS[question](study, (X[n:], y[n:]))
    return counted.count


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_twice_the_examples_take_as_many_operations(name, question):
    few, many = operations(name, question, 60), operations(name, question, 120)
    assert many - few <= ALLOWED.get(question, 0) * 60
    assert few > 10
