"""Losses with chance in them: the explicit average over draws, whatever the batch size."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from cases import classification
from networks import relative
from upweight.objective.randomised import hashed

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
N = 12


def problem(dropout=0.3):
    data = classification(n=N, p=5, m=3, classes=3)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3)).double().eval(), data


def noisy(model, batch, generator):
    inputs, targets = batch
    noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device=inputs.device)
    return model(inputs + 0.5 * noise), targets


def study_of(model, data, forward, **settings):
    return uw.Study(model, (data.X, data.y), loss="cross_entropy", forward=forward, **{"penalty": 0.1} | settings)


def explicit(model, data, draws, seed):
    """Average gradients of every example by plain autograd, draw by draw."""
    rows = []
    for i in range(N):
        total = 0.0
        for draw in range(draws):
            generator = torch.Generator().manual_seed(hashed(f"{seed}, {draw}, {hashed(str(i))}"))
            one = torch.as_tensor(data.X[i : i + 1]), torch.as_tensor(data.y[i : i + 1])
            total = total + F.cross_entropy(*noisy(model, one, generator)) / draws
        found = torch.autograd.grad(total, list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("size", [1, 5, "auto"])
def test_gradients_are_the_average_of_the_draws_gradients(size):
    model, data = problem()
    study = study_of(model, data, uw.Randomised(noisy, draws=3, seed=7), batch_size=size)
    assert relative(uw.rows(study.objective).dense(), explicit(model, data, 3, 7)) < 1e-10
    assert set(study.coverage.values()) == {"one by one"}


@pytest.mark.parametrize("settings", [{"curvature": "ekfac"}, {"curvature": "ggn", "damping": 0.1}])
def test_effects_follow_the_formula_and_not_the_batch(settings):
    model, data = problem()
    found = []
    for size in (1, 4):
        study = study_of(
            model, data, uw.Randomised(noisy, draws=2), batch_size=size, protocol="fixed_total", **settings
        )
        T, C = uw.rows(study.objective, study.fitted.adapted.codec.read(data.query, "query")), uw.rows(study.objective)
        P = study.fitted.row_inverse(3).dense()
        found.append(study.upweight(data.query).values)
        assert relative(found[-1], -T.dense() @ P @ C.dense().T) < 1e-9
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_the_curvature_is_the_average_of_the_draws_curvatures():
    model, data = problem()
    whole = study_of(model, data, uw.Randomised(noisy, draws=3), curvature="ggn", penalty=None)
    J = torch.cat([whole.fitted.engine.jacobian(b).dense() for _, b in whole.fitted.engine.batches()])  # (n, 9, p)
    outputs = torch.cat([whole.fitted.engine.outputs(b)[0] for _, b in whole.fitted.engine.batches()]).view(N, 3, 3)
    p = torch.softmax(outputs, 2)
    curved = torch.diag_embed(p) - p.unsqueeze(3) * p.unsqueeze(2)
    J = J.view(N, 3, 3, -1)
    expected = torch.einsum("ndop,ndox,ndxq->pq", J, curved, J) / (3 * N)
    assert relative(uw.curvature.ggn(whole.objective).matrix, expected) < 1e-9


def test_dropout_can_be_kept_and_everything_is_handed_back():
    model, data = problem()
    model.train()
    torch.manual_seed(3)
    before, expected = torch.get_rng_state(), torch.rand(3)
    torch.set_rng_state(before)
    with pytest.warns(uw.errors.ModeWarning):
        kept = study_of(model, data, uw.Randomised(draws=4, dropout=True), curvature="ekfac")
    plain = study_of(model.eval(), data, uw.Randomised(draws=4), curvature="ekfac")
    a, b = kept.upweight(data.query).values, plain.upweight(data.query).values
    assert relative(a, b) > 0.05
    torch.testing.assert_close(torch.rand(3), expected)
    assert not model.training and not model[2].training
    usual = uw.Study(model, (data.X, data.y), loss="cross_entropy", penalty=0.1)
    assert relative(uw.rows(plain.objective).dense(), uw.rows(usual.objective).dense()) < 1e-12


def test_more_draws_spread_less_as_one_over_their_number():
    model, data = problem()

    def spread(draws):
        found = [
            uw.rows(study_of(model, data, uw.Randomised(noisy, draws, seed)).objective).dense() for seed in range(24)
        ]
        return float(torch.stack(found).var(0).sum())

    assert 0.7 < 8 * spread(8) / spread(1) < 1.4


def test_subsets_labels_and_groups_keep_each_examples_noise():
    model, data = problem()
    study = study_of(model, data, uw.Randomised(noisy, draws=2), curvature="ggn", damping=0.1)
    whole, part = study.drop(data.query).values, study.drop(data.query, which=[7, 2]).values
    np.testing.assert_allclose(part, whole[:, [7, 2]], rtol=1e-9)
    same = study.relabel({3: int(data.y[3])}, data.query)
    assert np.abs(same.values).max() < 1e-12
    assert study.relabel({3: (int(data.y[3]) + 1) % 3}, data.query).values.any()
    assert study.drop_group([[1, 2]], data.query).values.shape == (3, 1)


def test_chance_without_the_wrapper_is_refused_and_names_it():
    model, data = problem()
    with pytest.raises(uw.errors.NondeterministicModel, match=r"uw.Randomised"):
        study_of(model, data, lambda model, batch: (model(batch[0] + torch.randn_like(batch[0])), batch[1]))
    with pytest.raises(uw.errors.ConfigError, match=r"draws=0. Expected a whole number"):
        uw.Randomised(noisy, draws=0)
