"""Effects over checkpoints and models: TracIn written out, linearity, and what cannot be added."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from cases import classification, mlp

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
DATA = classification(n=20, p=3, m=4, classes=3)
X, Y = torch.as_tensor(DATA.X), torch.as_tensor(DATA.y)


def checkpoints(count: int = 3, seed: int = 0) -> list[nn.Module]:
    """A run of plain gradient descent, kept after every few steps."""
    model, found = mlp(3, 4, 3, seed), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(count):
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
        copy = mlp(3, 4, 3)
        copy.load_state_dict(model.state_dict())
        found.append(copy)
    return found


def study(model: nn.Module, curvature: str = "identity", **settings) -> uw.Study:
    return uw.Study(model, (X, Y), loss="cross_entropy", curvature=curvature, **{"damping": 0.0, **settings})


def gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    parameters = list(model.parameters())
    return torch.cat([g.flatten() for g in torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), parameters)])


def test_a_sum_over_checkpoints_is_tracin_by_plain_autograd():
    models, rates = checkpoints(), [0.5, 0.2, 0.1]
    found = uw.over_checkpoints([study(model).drop(DATA.query, order="first") for model in models], rates)
    Xt, yt = torch.as_tensor(DATA.Xt), torch.as_tensor(DATA.yt)
    expected = np.zeros((4, 20))
    for model, rate in zip(models, rates, strict=True):
        T = torch.stack([gradient(model, x, y) for x, y in zip(Xt, yt, strict=True)])
        G = torch.stack([gradient(model, x, y) for x, y in zip(X, Y, strict=True)])
        expected += rate * (T @ G.T).numpy() / 20
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert "Sum over 3 checkpoints" in repr(found) and found.unit == "nats"


def test_means_are_linear_and_may_be_cut_and_grouped_before_or_after():
    answers = [study(model, "ekfac", damping=0.1).drop(DATA.query, order="first") for model in checkpoints()]
    mean = uw.over_checkpoints(answers)
    np.testing.assert_allclose(mean.values, np.mean([one.values for one in answers], 0), atol=1e-15)
    before = uw.over_checkpoints([one.groupby(DATA.y) for one in answers])
    np.testing.assert_allclose(mean.groupby(DATA.y).values, before.values, atol=1e-12)
    split = mean.by_module()
    np.testing.assert_allclose(split.values.sum(0), mean.values, atol=1e-10)
    np.testing.assert_allclose(split["0"].values, np.mean([one.by_module()["0"].values for one in answers], 0), atol=1e-12)  # fmt: skip


def test_models_are_averaged_with_their_spread_and_how_far_they_agree():
    answers = [study(checkpoints(1, seed)[0]).drop(DATA.query, order="first") for seed in range(4)]
    found, values = uw.over_models(answers), np.stack([one.values for one in answers])
    np.testing.assert_allclose(found.values, values.mean(0), atol=1e-15)
    np.testing.assert_allclose(uw.spread_over_models(answers), values.std(0, ddof=1) / 2, atol=1e-15)
    from scipy.stats import spearmanr

    pairs = [(a, b) for a in range(4) for b in range(a)]
    expected = np.mean([spearmanr(values[a, q], values[b, q])[0] for a, b in pairs for q in range(4)])
    assert f"agree two by two at Spearman {expected:.2f}" in repr(found)
    np.testing.assert_array_equal(uw.over_models(answers[:1]).values, answers[0].values)


def test_one_and_the_same_model_many_times_is_itself():
    answer = study(checkpoints(1)[0]).drop(DATA.query, order="first")
    found = uw.over_models([answer] * 3)
    np.testing.assert_allclose(found.values, answer.values, atol=1e-16)
    assert "Spearman 1.00" in repr(found) and found.verdict == answer.verdict
    assert np.abs(uw.spread_over_models([answer] * 3)).max() < 1e-15


def test_what_cannot_be_added_is_refused_by_name():
    answer = study(checkpoints(1)[0]).drop(DATA.query, order="first")
    with pytest.raises(uw.errors.ConfigError, match=r"found nothing. Expected Effects"):
        uw.over_models([])
    with pytest.raises(uw.errors.ConfigError, match=r"found ndarray. Expected Effects"):
        uw.over_models([answer.values])
    with pytest.raises(
        uw.errors.ConfigError, match=r"measure is 'loss' and 'margin'. Expected answers to one question"
    ):
        uw.over_models([answer, replace(answer, measure="margin")])
    with pytest.raises(uw.errors.ShapeError, match=r"different train_ids. Expected the same"):
        uw.over_checkpoints([answer, replace(answer, train_ids=answer.train_ids[::-1])])
    for rates in ([1.0, 2.0], [-1.0], [np.nan]):
        with pytest.raises(uw.errors.ConfigError, match=r"rates .* for 1 checkpoints. Expected one number above zero"):
            uw.over_checkpoints([answer], rates)
    with pytest.raises(uw.errors.ConfigError, match=r"found one model. Expected at least two"):
        uw.spread_over_models([answer])
    other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Sequential(nn.Linear(4, 3))).double().eval()
    both = uw.over_models([answer, study(other).drop(DATA.query, order="first")])
    with pytest.raises(uw.errors.ConfigError, match=r"different modules. Expected the same in all"):
        both.by_module()
