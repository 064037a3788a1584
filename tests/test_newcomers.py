"""What people try first: augmented datasets, callables with the wrong arguments, misspelt names, custom autograd functions."""

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from test_bad_input import refused
from upweight import errors


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).eval()


class Augmented(torch.utils.data.Dataset):
    """Noise on one example in ten."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, place):
        noise = torch.randn(4) if place % 10 == 9 else torch.zeros(4)
        return self.X[place] + noise, self.y[place]


X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def test_random_augmentation_is_found_in_the_data_and_not_blamed_on_the_model():
    with refused(errors.OrderError, "two different versions of example 9", "augmentation"):
        uw.Study(network(), Augmented(X, Y), loss="cross_entropy")


def test_a_loss_that_takes_the_model_is_told_what_it_gets():
    with refused(errors.ConfigError, "loss(outputs, targets)", "forward="):
        uw.Study(network(), (X, Y), loss=lambda model, batch, extra: model(batch))


@pytest.mark.parametrize(
    ("argument", "wrong", "meant"),
    [("solver", "Nystrom", "nystrom"), ("solver", "blockcg", "block_cg"), ("curvature", "ek-fac", "ekfac")],
)
def test_the_name_that_was_meant_is_offered(argument, wrong, meant):
    with refused(errors.ConfigError, f"did you mean '{meant}'?"):
        uw.Study(network(), (X, Y), loss="cross_entropy", **{argument: wrong})
    with refused(errors.ConfigError, "did you mean 'cross_entropy'?"):
        uw.Study(network(), (X, Y), loss="crossentropy")


@pytest.mark.parametrize(
    ("wrong", "meant"), [("curvture", "curvature"), ("wieghts", "weights"), ("facter_share", "factor_share")]
)
def test_the_argument_that_was_meant_is_offered(wrong, meant):
    with refused(errors.ConfigError, f"found the setting {wrong!r}", f"did you mean {meant!r}?"):
        uw.Study(network(), (X, Y), loss="cross_entropy", **{wrong: 1})


class Straight(torch.autograd.Function):
    """A straight-through step, in the old style that torch.func cannot read."""

    @staticmethod
    def forward(ctx, values):
        return values.sign()

    @staticmethod
    def backward(ctx, slopes):
        return slopes


class WithStraight(nn.Module):
    """A step between two layers, and a free parameter that no layer rule covers."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(4, 5), nn.Linear(5, 2), nn.Parameter(torch.ones(5))

    def forward(self, X):
        return self.last(Straight.apply(self.first(X) * self.scale))


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
def test_a_custom_autograd_function_is_refused_in_words_where_torch_cannot_follow_it():
    torch.manual_seed(0)
    model = WithStraight().eval()
    with refused(errors.ModelError, "setup_context", "parameters="):
        uw.Study(model, (X, Y), loss="cross_entropy", curvature="ekfac").drop((X[:2], Y[:2]))
    study = uw.Study(model, (X, Y), loss="cross_entropy", curvature="ekfac", parameters=["first.*", "last.*"])
    assert np.isfinite(study.drop((X[:2], Y[:2])).values).all()


def test_one_flat_list_is_told_how_a_single_group_is_written():
    study = uw.Study(nn.Linear(4, 2).double().eval(), (X.double(), Y), loss="cross_entropy", penalty=uw.L2(0.1))
    with refused(errors.ConfigError, "[[0, 1, 2]]"):
        study.drop_group([0, 1, 2], (X[:2].double(), Y[:2]))


@pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
def test_a_group_without_which_nothing_is_definite_stays_at_first_order_and_is_said():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double().eval()
    data = X.double(), Y
    engine = uw.Study(model, data, loss="cross_entropy").fitted.engine
    examples, each = engine.objective.examples, torch.eye(len(X), dtype=torch.float64) / len(X)
    values, vectors = torch.linalg.eigh(engine.hessian(examples, each.sum(0)))
    lowest = vectors[:, 0]
    bends = torch.stack([lowest @ engine.hessian(examples, one) @ lowest for one in each])
    study = uw.Study(model, data, loss="cross_entropy", curvature="hessian", damping=1.001 * abs(float(values[0])))
    group, query = [bends.argsort(descending=True)[:10].numpy()], (X[:2].double(), Y[:2])
    with refused(errors.IndefiniteCurvature, "group 0 is left out"):
        study.drop_group(group, query, order="newton")
    with pytest.warns(errors.ApproximationWarning, match="stay at first order"):
        found = study.drop_group(group, query)
    assert found.order == "first"
    np.testing.assert_array_equal(found.values, study.drop_group(group, query, order="first").values)
