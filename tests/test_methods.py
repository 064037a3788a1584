"""Every named method against its definition, written out densely in float64 from plain autograd."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from networks import plain_gradient, plain_gradients, relative, trained
from upweight.errors import ConfigError, EmptyDataset, IndefiniteCurvature
from upweight.methods import checkpoints
from upweight.methods.checkpoints import Adam, at

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")


POINTS = 40


def made(name: str):
    """An objective with uneven weights, its query, and both sides' gradients by plain autograd."""
    whole = trained(name)
    t = replace(whole, X=whole.X[:POINTS], y=whole.y[:POINTS])
    weights = np.linspace(0.5, 1.5, POINTS) / POINTS
    objective = uw.Study(t.model, t.data, loss="cross_entropy", weights=weights).objective
    return t, objective, plain_gradients(t.model, t.Xt, t.yt), plain_gradients(t.model, t.X, t.y)


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def case(request):
    return made(request.param)


@pytest.fixture(scope="module", params=["mlp", "transformer"])
def layered(request):
    return made(request.param)


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def test_products_and_angles(layered):
    t, objective, T, G = layered
    assert relative(uw.methods.grad_dot(objective, t.query), T @ G.T) < 1e-10
    assert relative(uw.methods.grad_cos(objective, t.query), unit(T) @ unit(G).T) < 1e-10


def test_relatif_is_influence_over_what_the_point_moves(case):
    t, objective, T, G = case
    H = uw.curvature.ekfac(objective).damped(0.1)
    inverse = torch.linalg.inv(H.dense())
    found = uw.methods.relatif(objective, t.query, uw.inverse(H))
    assert relative(found, T @ inverse @ G.T / torch.einsum("np,pq,nq->n", G, inverse, G).sqrt()) < 1e-9
    found = uw.methods.relatif(objective, t.query, uw.inverse(H), "parameters")
    assert relative(found, T @ inverse @ G.T / (G @ inverse).norm(dim=1)) < 1e-9
    with pytest.raises(ConfigError, match="'both'"):
        uw.methods.relatif(objective, t.query, uw.inverse(H), "both")


def moved(model: nn.Module, seed: int) -> nn.Module:
    """Another checkpoint of the same model."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return other


def test_tracin_sums_products_over_checkpoints(case):
    t, objective, *_ = case
    models, rates = [moved(t.model, k) for k in range(3)], [0.3, 0.2, 0.1]
    expected = sum(
        eta * plain_gradients(model, t.Xt, t.yt) @ plain_gradients(model, t.X, t.y).T
        for model, eta in zip(models, rates, strict=True)
    )
    found = uw.methods.tracin([at(objective, model.state_dict()) for model in models], t.query, rates)
    assert relative(found, expected) < 1e-10


def test_source_unrolls_segments_of_gradient_flow(case):
    t, objective, *_ = case
    models, rates = [moved(t.model, k) for k in range(3)], [3.0, 0.2, 1.0]
    steps = [at(objective, model.state_dict()) for model in models]
    carried, expected = plain_gradients(models[-1], t.Xt, t.yt), 0.0
    for step, model, rate in zip(reversed(steps), reversed(models), reversed(rates), strict=True):
        H = uw.curvature.ekfac(step).dense()
        kept = torch.linalg.matrix_exp(-rate * H)
        whole = torch.eye(len(H), dtype=H.dtype) - kept  # (I − e^{−rH})H⁺, and r where H is zero
        values, Q = torch.linalg.eigh(H)
        assert relative(Q.T @ whole @ Q, torch.diag(-torch.expm1(-rate * values))) < 1e-9
        inner = torch.where(values > 1e-12, -torch.expm1(-rate * values) / values.clamp_min(1e-12), rate)
        expected = expected + carried @ (Q * inner) @ Q.T @ plain_gradients(model, t.X, t.y).T
        carried = carried @ kept
    assert relative(uw.methods.source(steps, t.query, rates), expected) < 1e-8
    with pytest.raises(ConfigError, match="above zero"):
        uw.methods.source(steps[:1], t.query, [0.0])
    with pytest.raises(ConfigError, match="1 and 2"):
        uw.methods.source(steps[:1], t.query, [0.1, 0.2])


def test_checkpoints_that_do_not_fit_are_refused():
    t = trained("mlp")
    objective = uw.Study(t.model, t.data, loss="cross_entropy").objective
    with pytest.raises(ConfigError, match="1 and 2"):
        uw.methods.tracin([objective], t.query, [0.1, 0.2])
    with pytest.raises(ConfigError, match="at least one"):
        uw.methods.less([], t.query, [], [])
    state = t.model.state_dict()
    with pytest.raises(ConfigError, match=r"4\.bias"):
        at(objective, {name: value for name, value in state.items() if name != "4.bias"})
    with pytest.raises(ConfigError, match=r"\(7,\)"):
        at(objective, state | {"4.bias": torch.zeros(7)})


def test_adam_s_update_is_torch_s_own_next_step():
    t = trained("mlp")
    model = copy.deepcopy(t.model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.95), eps=1e-6)
    for _ in range(4):
        optimiser.zero_grad()
        F.cross_entropy(model(t.X), t.y).backward()
        optimiser.step()
    states = [optimiser.state[p] for p in model.parameters()]
    mean, square = (torch.cat([s[name].flatten() for s in states]) for name in ("exp_avg", "exp_avg_sq"))
    adam = Adam(mean, square, 4, (0.8, 0.95), 1e-6)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    gradient = plain_gradients(model, t.X[:1], t.y[:1])
    optimiser.zero_grad()
    F.cross_entropy(model(t.X[:1]), t.y[:1]).backward()
    optimiser.step()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert relative(adam.update(gradient)[0], (before - after) / 0.01) < 1e-8


def test_less_is_the_angle_between_the_query_s_gradient_and_adam_s_update(case):
    t, objective, *_ = case
    p = objective.space.size
    models, rates, expected, moments = [moved(t.model, k) for k in range(2)], [0.7, 0.4], 0.0, []
    draw = torch.Generator().manual_seed(0)
    for model, eta in zip(models, rates, strict=True):
        m, v = (torch.randn(p, generator=draw, dtype=torch.float64) * 0.01 for _ in range(2))
        moments.append(Adam(m, v.square(), 10))
        T, G = plain_gradients(model, t.Xt, t.yt), plain_gradients(model, t.X, t.y)
        first = (0.9 * m + 0.1 * G) / (1 - 0.9**11)
        second = (0.999 * v.square() + 0.001 * G**2) / (1 - 0.999**11)
        expected = expected + eta * unit(T) @ unit(first / (second.sqrt() + 1e-8)).T
    steps = [at(objective, model.state_dict()) for model in models]
    assert relative(uw.methods.less(steps, t.query, rates, moments), expected) < 1e-10
    C = uw.linop.Gaussian(p, 64, seed=2)
    one = uw.methods.less(steps[:1], t.query, [1.0], moments[:1], C)
    T, G = (
        plain_gradients(models[0], t.Xt, t.yt) @ C.dense(),
        moments[0].update(plain_gradients(models[0], t.X, t.y)) @ C.dense(),
    )
    assert relative(one, unit(T) @ unit(G).T) < 1e-10


def margin_gradients(model: nn.Module, X, y) -> torch.Tensor:
    rows = []
    for x, label in zip(X, y, strict=True):
        p = F.softmax(model(x[None])[0], 0)[label]
        rows.append(plain_gradient(model, (p / (1 - p)).log()))
    return torch.stack(rows)


def test_trak_is_its_closed_form_averaged_over_an_ensemble(case):
    t, objective, *_ = case
    models, scores, doubts = [moved(t.model, k) for k in range(2)], 0.0, 0.0
    for k, model in enumerate(models):
        C = uw.linop.Gaussian(objective.space.size, 20, seed=5 + k).dense()
        phi, asked = margin_gradients(model, t.X, t.y) @ C, margin_gradients(model, t.Xt, t.yt) @ C
        scores = scores + asked @ torch.linalg.inv(phi.T @ phi) @ phi.T / 2
        doubts = doubts + (1 - F.softmax(model(t.X), 1).gather(1, t.y[:, None])[:, 0]).detach() / 2
    found = uw.methods.trak([at(objective, model.state_dict()) for model in models], t.query, 20, seed=5)
    assert relative(found, scores * doubts) < 1e-7
    with pytest.raises(ConfigError, match="at least one"):
        uw.methods.trak([], t.query)
    with pytest.raises(IndefiniteCurvature, match="singular"):
        uw.methods.trak([objective], t.query, len(t.y) + 50)


def layer_columns(objective, P):
    return zip(uw.curvature.identity(objective).parts, P.columns(), strict=True)


def test_logra_is_influence_in_the_projected_space_of_every_layer(layered):
    t, objective, T, G = layered
    w = objective.weights / objective.weights.sum()
    P = uw.linop.two_sided(uw.curvature.identity(objective), 3, 4, seed=1)
    expected = 0.0
    for _, where in layer_columns(objective, P):
        C = P.dense()[:, where]
        own = G @ C
        H = own.T @ (w[:, None] * own)
        H = H + 0.1 * H.diagonal().mean() * torch.eye(len(H)).double()
        expected = expected + T @ C @ torch.linalg.inv(H) @ own.T
    assert relative(uw.methods.logra(objective, t.query, (3, 4), seed=1), expected) < 1e-8


def test_trackstar_is_the_angle_in_whitened_projected_space(layered):
    t, objective, T, G = layered
    V = torch.rand(objective.space.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    P = uw.linop.two_sided(uw.curvature.identity(objective), 3, 4, seed=1)
    sides = [[], []]
    for _, where in layer_columns(objective, P):
        C = P.dense()[:, where]
        asked, own = (T / V.sqrt()) @ C, (G / V.sqrt()) @ C
        R = 0.3 * asked.T @ asked / len(T) + 0.7 * own.T @ own / len(G)
        R = R + 0.1 * R.diagonal().mean() * torch.eye(len(R)).double()
        values, vectors = torch.linalg.eigh(R)
        root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        sides[0].append(asked @ root)
        sides[1].append(own @ root)
    expected = unit(torch.cat(sides[0], 1)) @ unit(torch.cat(sides[1], 1)).T
    found = uw.methods.trackstar(objective, t.query, (3, 4), V, mix=0.3, seed=1)
    assert relative(found, expected) < 1e-8
    with pytest.raises(ConfigError, match="0 to 1"):
        uw.methods.trackstar(objective, t.query, mix=1.2)


def test_datainf_averages_the_inverses_of_single_examples(case):
    t, objective, T, G = case
    w = objective.weights / objective.weights.sum()
    expected = 0.0
    for layout, _ in uw.curvature.identity(objective).parts:
        own, asked = layout.gather(G), layout.gather(T)
        level = 0.1 * float(w @ own.square().mean(1))
        eye = torch.eye(own.shape[1]).double()
        inverse = sum(wi * torch.linalg.inv(torch.outer(g, g) + level * eye) for wi, g in zip(w, own, strict=True))
        expected = expected + asked @ inverse @ own.T
    assert relative(uw.methods.datainf(objective, t.query), expected) < 1e-8


def test_bm25_is_its_formula():
    documents = [
        ["the", "cat", "sat", "on", "the", "mat"],
        ["the", "dog", "sat"],
        ["cats", "and", "dogs"],
        ["a", "mat", "a", "mat"],
    ]
    queries = [["the", "mat"], ["dog", "dog"], ["nothing"]]
    found = uw.methods.bm25(documents, queries, k1=1.2, b=0.6)
    mean = sum(map(len, documents)) / len(documents)
    for i, query in enumerate(queries):
        for j, document in enumerate(documents):
            score = 0.0
            for word in query:
                holding, often = sum(word in d for d in documents), document.count(word)
                rare = math.log(1 + (4 - holding + 0.5) / (holding + 0.5))
                score += rare * often * 2.2 / (often + 1.2 * (1 - 0.6 + 0.6 * len(document) / mean))
            assert found[i, j] == pytest.approx(score, abs=1e-12)
    with pytest.raises(EmptyDataset, match="bm25"):
        uw.methods.bm25([], queries)


def test_representation_similarity_is_the_angle_of_what_a_layer_is_given(case):
    t, objective, *_ = case
    names = [name for name, module in t.model.named_modules() if isinstance(module, nn.Linear)]
    seen = []
    handle = t.model.get_submodule(names[-1]).register_forward_pre_hook(
        lambda module, args: seen.append(args[0].detach())
    )
    with torch.no_grad():
        t.model(t.Xt), t.model(t.X)
    handle.remove()
    found = uw.methods.representation_similarity(objective, t.query, names[-1])
    assert relative(found, unit(seen[0]) @ unit(seen[1]).T) < 1e-10
    with pytest.raises(ConfigError, match="no layer"):
        uw.methods.representation_similarity(objective, t.query, "nowhere")


def test_a_layer_without_a_row_an_example_is_no_representation():
    layer = nn.Linear(4, 4).double()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(self.layer(x))

    data = torch.randn(6, 4).double(), torch.randint(4, (6,))
    objective = uw.Study(Twice().eval(), data, loss="cross_entropy").objective
    with pytest.raises(ConfigError, match="called 2 times"):
        uw.methods.representation_similarity(objective, data, "layer")


def test_the_tail_patch_is_a_real_step(case):
    t, objective, *_ = case
    found = uw.methods.tail_patch(objective, t.query, [3, 8], rate=0.2)
    before = F.softmax(t.model(t.Xt), 1).gather(1, t.yt[:, None])[:, 0]
    for column, place in enumerate((3, 8)):
        model = copy.deepcopy(t.model)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.2)
        optimiser.zero_grad()
        F.cross_entropy(model(t.X[place : place + 1]), t.y[place : place + 1]).backward()
        optimiser.step()
        after = F.softmax(model(t.Xt), 1).gather(1, t.yt[:, None])[:, 0]
        torch.testing.assert_close(found[:, column], (after - before).detach(), rtol=1e-8, atol=1e-12)


def test_a_small_step_on_a_point_moves_a_query_s_loss_by_their_product(case):
    t, objective, T, G = case
    found = uw.methods.tail_patch(objective, t.query, [0, 1], rate=1e-7, measure="loss")
    assert relative(-found / 1e-7, T @ G[:2].T) < 1e-4


def test_rows_of_a_measure_are_its_gradients(case):
    t, objective, *_ = case
    assert relative(uw.rows(objective, measure="margin").dense(), margin_gradients(t.model, t.X, t.y)) < 1e-9
    assert relative(uw.rows(objective).lengths(), plain_gradients(t.model, t.X, t.y).norm(dim=1)) < 1e-10
    for several in ("prediction", "accuracy"):
        with pytest.raises(ConfigError, match="Expected one"):
            uw.rows(objective, measure=several).dense()


def test_cosines_of_nothing_are_zero():
    assert checkpoints.cosines(torch.zeros(1, 3), torch.ones(2, 3)).tolist() == [[0.0, 0.0]]
