"""Studies with structured curvature: every answer equals its dense definition, by every product rule."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from test_layers import CASES, CLASSES, N
from torch import nn

import upweight as uw
from cases import classification, pearson, slope
from upweight.curvature.products import Differentiated, GaussNewton, curvature_products
from upweight.fitted.iterative import Network
from upweight.linop import BlockDiagonal, KroneckerEigen
from upweight.questions.question import Question
from upweight.router import TRUNCATION_ERROR, cost_low_rank, route_ghost
from upweight.tiles.pairs import prepare_pairs
from upweight.tiles.truncation import separate, truncation_of

NETWORKS = [
    "linear",
    "linear over positions",
    "conv2d",
    "layer norm",
    "tied",
    "tied convolutions",
    "tied, biases of their own",
    "free parameter",
]
CURVATURES = ["ekfac", "kfac", "diagonal", "block_diagonal", "identity"]
pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")


def study_of(name: str, curvature: str, **settings) -> tuple[uw.Study, tuple]:
    make, X = CASES[name]
    torch.manual_seed(0)
    model = make().double().eval()
    y = torch.arange(N) % CLASSES
    study = uw.Study(model, (X, y), loss="cross_entropy", penalty=uw.L2(0.05), curvature=curvature, **settings)
    return study, (X[:3], y[:3])


@pytest.mark.parametrize("protocol", ["fixed_total", "fixed_mean"])
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", NETWORKS)
def test_upweight_is_the_formula_with_the_blocks_written_out(name, curvature, protocol):
    study, query = study_of(name, curvature, protocol=protocol)
    C, T = uw.rows(study.objective).dense(), uw.rows(study.objective, query).dense()
    if protocol == "fixed_mean":
        C = C + study.fitted.penalty_gradient
    P = study.fitted.blocked.inverse.dense()
    blocks = study.fitted.blocked.curvature  # of which the identity is not damped
    damped = (blocks if curvature == "identity" else uw.curvature.damped(blocks, uw.Relative(0.1))).dense()
    torch.testing.assert_close(P @ damped, torch.eye(len(P), dtype=torch.float64), atol=1e-8, rtol=0)
    expected = -(T @ P @ C.T).numpy()
    found = study.upweight(query)
    np.testing.assert_allclose(found.values, expected, atol=1e-9 * np.abs(expected).max())
    assert "product rules" in found.verdict and curvature in found.verdict


def test_a_separable_product_keeps_within_its_measured_error():
    torch.manual_seed(0)
    data = classification(n=150, p=30, classes=3)
    model = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 3)).double().eval()
    study = uw.Study(model, (data.X, data.y), loss="cross_entropy", curvature="ekfac")
    operator = study.fitted.blocked.inverse.operator
    measured = Question(study.fitted, data.query).measured
    sample = study.fitted.engine.gradients(study.objective.examples.read(slice(0, 150)))
    exact = prepare_pairs(
        measured.layers(), operator, study.fitted.blocked.curvature, lambda: sample, 150, force="written"
    ).against(sample)
    pairs = prepare_pairs(
        measured.layers(), operator, study.fitted.blocked.curvature, lambda: sample, 150, force="separable"
    )
    found = pairs.against(sample)
    error = float((found - exact).norm() / exact.norm())
    assert error < 0.06 and 0.4 < error / pairs.error.whole < 2.5
    assert f"measured error {pairs.error.whole:.1%}" in pairs.rules
    assert pearson(exact.numpy(), found.numpy()) > 0.998


@pytest.mark.parametrize("rule", ["low_rank", "ghost", "written", "separable"])
@pytest.mark.parametrize("curvature", ["ekfac", "identity"])
def test_every_product_rule_gives_the_scores_of_layers_shared_by_positions(rule, curvature):
    truth, query = study_of("conv2d", curvature, products="written")
    found, _ = study_of("conv2d", curvature, products=rule)
    expected, scores = truth.upweight(query), found.upweight(query)
    serves = {"low_rank", "written", "separable"} | ({"ghost"} if curvature == "identity" else set())
    assert (rule in scores.verdict) == (rule in serves)  # separable: the head, which is used once an example
    exact = rule in ("ghost", "written") or "measured error" not in scores.verdict
    error = np.linalg.norm(scores.values - expected.values) / np.linalg.norm(expected.values)
    assert error < (1e-9 if exact else 0.08)
    assert 0.9 < slope(scores.values, expected.values) < 1.1


def test_the_router_takes_low_rank_for_few_queries_and_ghosts_for_short_sequences():
    assert cost_low_rank(8, s=128, i=256, o=256, m=1) < cost_low_rank(0, s=128, i=256, o=256, m=1)
    assert cost_low_rank(8, s=128, i=256, o=256, m=50) > cost_low_rank(0, s=128, i=256, o=256, m=50)
    assert route_ghost(4, 4, 512, 512, 1) and not route_ghost(128, 128, 256, 256, 50)


def test_low_rank_is_exact_at_full_rank_and_its_error_is_measured():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Flatten()).double().eval()
    X, y = torch.randn(40, 4, 6, dtype=torch.float64), torch.arange(40) % 12
    study = uw.Study(model, (X, y), loss="cross_entropy", curvature="ekfac")
    operator, sample = study.fitted.blocked.inverse.operator, study.fitted.engine.gradients((X, y))
    measured = Question(study.fitted, (X[:7], y[:7])).measured
    blocks = (operator, study.fitted.blocked.curvature, lambda: sample, 40)
    exact = prepare_pairs(measured.layers(), *blocks, force="written").against(sample)
    pairs = prepare_pairs(measured.layers(), *blocks, force="low_rank")
    assert {layer.rule for layer in pairs.layers.values()} == {"low_rank"}
    error = float((pairs.against(sample) - exact).norm() / exact.norm())
    assert error < 0.06 and 0.3 < error / pairs.error.whole < 3
    asked = torch.arange(7)
    for k, ((_, block), part) in enumerate(zip(operator.parts, sample.parts, strict=True)):
        truncation = truncation_of(
            [tile[k] for tile in measured.layers()], block, block, lambda part=part: part, asked, "low_rank"
        )
        assert (
            float(truncation.misses[-1].norm())
            < 1e-9 * float(truncation.exact.norm())
            < float(truncation.misses[0].norm())
        )


def deep(layers: int = 8, n: int = 300, m: int = 120):
    """A residual perceptron trained until most of its losses vanish: layers' truncations add up, and queries differ by far."""
    torch.manual_seed(0)
    data = classification(n=n, p=32, m=m, classes=4)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = nn.ModuleList(nn.Linear(32, 32) for _ in range(layers)), nn.Linear(32, 4)

        def forward(self, x):
            for layer in self.layers:
                x = x + torch.tanh(layer(x))
            return self.head(x)

    model, X, y = Residual().double(), torch.as_tensor(data.X), torch.as_tensor(data.y)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
    return uw.Study(model.eval(), (data.X, data.y), loss="cross_entropy", curvature="ekfac"), data.query


def test_the_error_of_many_truncated_layers_is_that_of_their_sum_and_of_every_query(monkeypatch):
    study, query = deep()
    operator, curvature = study.fitted.blocked.inverse.operator, study.fitted.blocked.curvature
    layers = Question(study.fitted, query).measured.layers()
    sample, everything = (
        study.fitted.sampled_rows,
        study.fitted.engine.gradients(study.objective.examples.read(slice(0, 300))),
    )
    exact = prepare_pairs(layers, operator, curvature, lambda: sample, 300, force="written").against(everything)
    pairs = prepare_pairs(layers, operator, curvature, lambda: sample, 10**9)  # so many that the router would truncate
    assert sum(layer.rule == "separable" for layer in pairs.layers.values()) >= 3
    missed = pairs.against(everything) - exact
    error, own = float(missed.norm() / exact.norm()), float((missed.norm(dim=0) / exact.norm(dim=0)).median())
    assert pairs.error.whole <= TRUNCATION_ERROR and 0.4 < error / pairs.error.whole < 2.5
    assert 0.4 < own / pairs.error.own < 2.5
    assert abs(slope(pairs.against(everything).numpy(), exact.numpy()) - 1) < 0.05


def test_kfac_separates_with_and_without_a_penalty():
    truth, query = study_of("linear", "kfac", products="written")
    bare, _ = study_of("linear", "kfac", products="separable")
    bare = uw.Study(
        bare.objective.model,
        (CASES["linear"][1], torch.arange(N) % CLASSES),
        loss="cross_entropy",
        curvature="kfac",
        products="separable",
    )
    assert "separable 2" in bare.upweight(query).verdict and "written 2" in truth.upweight(query).verdict


@pytest.mark.parametrize("rule", ["separable", "low_rank", "ghost"])
def test_pairs_in_pieces_are_the_pairs_at_once(rule, monkeypatch):
    name, curvature = ("linear", "ekfac") if rule == "separable" else ("conv2d", "identity")
    study, query = study_of(name, curvature, products=rule)
    whole = study.upweight(query).values
    monkeypatch.setattr("upweight.tiles.pairs.chunk", lambda *asked: 2)
    np.testing.assert_allclose(
        study_of(name, curvature, products=rule)[0].upweight(query).values, whole, rtol=1e-9, atol=1e-15
    )


def test_separating_a_product_needs_one_rank_and_more_ranks_never_hurt_where_the_mass_is():
    rows, columns = torch.rand(6, dtype=torch.float64) + 0.1, torch.rand(9, dtype=torch.float64) + 0.1
    u, v = separate(torch.outer(rows, columns), torch.rand(6, 9, dtype=torch.float64))
    torch.testing.assert_close(u[:, :1] @ v[:, :1].T, torch.outer(rows, columns))
    values, mass = 1 / (torch.rand(6, 9, dtype=torch.float64) + 0.05), torch.ones(6, 9, dtype=torch.float64)
    u, v = separate(values, mass)
    errors = [float((u[:, :r] @ v[:, :r].T - values).norm()) for r in range(1, 7)]
    assert all(b <= a + 1e-9 for a, b in pairwise(errors)) and errors[-1] < 1e-9


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", ["linear", "conv2d", "layer norm", "tied"])
def test_self_influence_and_leverage_are_their_quadratic_forms(name, curvature):
    study, _ = study_of(name, curvature)
    P, C = study.fitted.blocked.inverse.dense(), uw.rows(study.objective).dense()
    own = torch.einsum("np,pq,nq->n", C, P, C).numpy() / N
    np.testing.assert_allclose(study.self_influence(), own, rtol=1e-8)
    batch = study.objective.examples.read(slice(0, N))
    eta, targets, jacobian = study.fitted.engine.linearised(batch)
    coupling = torch.einsum("nop,pq,nxq->nox", jacobian.dense(), P, jacobian.dense())
    levers = torch.einsum("nox,nxo->n", study.objective.loss.hessian(eta, targets), coupling).numpy() / N
    np.testing.assert_allclose(study.leverage(), levers, rtol=1e-8)


@pytest.mark.parametrize("batch_size", [1, 4, N])
@pytest.mark.parametrize("name", ["linear", "conv2d", "embedding", "tied"])
def test_self_influence_is_the_same_from_inputs_kept_by_the_fit_and_from_inputs_turned_anew(name, batch_size):
    study, _ = study_of(name, "ekfac", batch_size=batch_size)
    kept, blocked = study.self_influence(), study.fitted.blocked
    assert len(blocked.squares) == -(-N // batch_size)
    assert blocked.squares[0, batch_size] or name == "tied"
    blocked.squares.clear()
    np.testing.assert_array_equal(study.self_influence(), kept)


def test_inputs_of_part_of_the_training_set_are_not_kept():
    study, _ = study_of("linear", "ekfac", factor_share=0.5)
    study.self_influence()
    assert not study.fitted.blocked.squares


@pytest.mark.parametrize("name", ["linear", "conv2d", "layer norm"])
@pytest.mark.parametrize("measure", ["loss", "margin"])
def test_the_corrected_drop_is_the_k_by_k_solve_written_out(name, measure):
    study, query = study_of(name, "ekfac", protocol="fixed_total", damping=uw.Relative(3.0))
    P = study.fitted.blocked.inverse.dense()
    batch = study.objective.examples.read(slice(0, N))
    eta, targets, jacobian = study.fitted.engine.linearised(batch)
    eta_q, targets_q, jacobian_q = study.fitted.engine.linearised(study.objective.examples.read(slice(0, 3)))
    J, Jq, loss = jacobian.dense(), jacobian_q.dense(), study.objective.loss
    found = study.drop(query, measure=measure, order="newton")
    value = {"loss": loss.values, "margin": None}[measure] or (
        lambda e, y: (e.gather(1, y[:, None]) - torch.logsumexp(e.scatter(1, y[:, None], -torch.inf), 1, keepdim=True))[
            :, 0
        ]
    )
    for i in range(N):
        A = J[i] @ P @ J[i].T
        u = torch.linalg.solve(
            torch.eye(CLASSES) - loss.hessian(eta, targets)[i] @ A / N, loss.gradient(eta, targets)[i]
        )
        moved = eta_q + Jq @ (P @ (J[i].T @ u)) / N
        expected = value(moved, targets_q) - value(eta_q, targets_q)
        np.testing.assert_allclose(found.values[:, i], expected.numpy(), atol=1e-9)
    assert found.order == "newton" and study.drop(query).order == "first"


def test_auto_takes_blocks_where_the_exact_hessian_does_not_fit_and_says_so():
    study, query = study_of("conv2d", "auto", memory=4000)
    effects = study.drop(query)
    assert "ekfac in 2 blocks, exact Fisher" in effects.verdict and "damping" in effects.verdict
    with pytest.raises(uw.errors.ConfigError, match=r"needs the exact curvature.*Expected 'hessian' or 'ggn'"):
        study.drop(query, estimand="newton")
    with pytest.raises(uw.errors.ConfigError, match=r"newton_step found curvature='ekfac'"):
        study.newton_step(0, 0.1)
    assert "ekfac" in str(study.trust())


def test_damping_is_relative_to_each_block_or_absolute():
    relative, _ = study_of("linear", "ekfac", damping=uw.Relative(0.5))
    absolute, _ = study_of("linear", "ekfac", damping=0.3)
    for (_, block), (_, inverted), (_, other) in zip(
        relative.fitted.blocked.curvature.parts,
        relative.fitted.blocked.inverse.operator.parts,
        absolute.fitted.blocked.inverse.operator.parts,
    ):
        assert isinstance(block, KroneckerEigen)
        torch.testing.assert_close(
            1 / inverted.values - block.values, torch.full_like(block.values, 0.5 * float(block.values.mean()))
        )
        torch.testing.assert_close(1 / other.values - block.values, torch.full_like(block.values, 0.3))
    assert relative.fitted.verdict.damping_share == pytest.approx(0.5)
    with pytest.raises(uw.errors.ConfigError, match=r"Relative found a share of -1"):
        uw.Relative(-1)


def test_a_network_s_ekfac_effects_follow_real_refits():
    """Rank and slope: the sizes are of the damped approximation, within a factor of two."""
    torch.manual_seed(0)
    data = classification(n=120, p=3, m=8, classes=3, seed=1)
    from cases import fit

    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)).double().eval()
    ce = nn.CrossEntropyLoss(reduction="none")
    fit(model, data.X, data.y, ce, np.full(120, 1 / 120), 0.02)
    exact = uw.Study(model, (data.X, data.y), loss="cross_entropy", penalty=0.02)
    blocks = uw.Study(model, (data.X, data.y), loss="cross_entropy", penalty=0.02, curvature="ekfac", damping=1e-6)
    truth = exact.check(data.query, refits=30)
    found = blocks.drop(data.query, which=truth.train_ids).values
    assert pearson(truth.refitted, found) > 0.85
    assert 0.5 < slope(truth.refitted, found) < 2


def test_a_block_diagonal_matrix_equals_its_dense_twin():
    study, _ = study_of("conv2d", "ekfac")
    operator = study.fitted.blocked.curvature
    assert isinstance(operator, BlockDiagonal) and operator.symmetric
    rows = torch.randn(4, operator.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(rows @ operator, rows @ operator.dense())
    torch.testing.assert_close(rows @ operator.T, rows @ operator.dense().T)
    torch.testing.assert_close(operator.damped(0.2).dense(), operator.dense() + 0.2 * torch.eye(operator.size))
    assert uw.curvature.mean_eigenvalue(operator) == pytest.approx(float(operator.dense().diagonal().mean()))


PRODUCTS = ["linear", "conv2d", "layer norm", "attention", "free parameter", "tied"]


@pytest.mark.parametrize("name", PRODUCTS)
def test_gauss_newton_products_equal_the_matrix(name):
    study, _ = study_of(name, "ggn")
    engine = study.fitted.engine
    captured = curvature_products(engine, "ggn", 0.3, torch.float64)
    objective = study.objective
    differentiated = Differentiated(engine, objective.examples, 1.0, captured.diagonal, torch.float64)
    rows = torch.randn(3, captured.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = uw.curvature.ggn(objective).damped(0.3).dense()
    assert isinstance(captured, GaussNewton)
    for operator in (captured, differentiated):
        torch.testing.assert_close(rows @ operator, rows @ matrix, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_the_hessian_equal_the_matrix(name):
    study, _ = study_of(name, "hessian")
    operator = curvature_products(study.fitted.engine, "hessian", 0.3, torch.float64)
    rows = torch.randn(3, operator.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = uw.curvature.hessian(study.objective).damped(0.3).dense()
    torch.testing.assert_close(rows @ operator, rows @ matrix, atol=1e-10, rtol=1e-8)


def test_minibatches_stand_for_the_whole_training_set_on_average():
    study, _ = study_of("linear", "ggn", solver="block_cg")
    network = Network(study.fitted.blocked, "ggn")
    rows = torch.randn(2, study.objective.space.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = torch.stack([rows @ network.sampled(generator, 5) for _ in range(400)]).mean(0)
    whole = rows @ network.products()
    assert float((found - whole).norm() / whole.norm()) < 0.1
    assert float((rows @ network.sampled(generator, 5) - whole).norm() / whole.norm()) > 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_block_cg_on_a_network_equals_cholesky(dtype):
    data = classification(n=150, p=12, m=6, classes=3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype).eval()
    settings = {"loss": "cross_entropy", "curvature": "ggn", "damping": 1e-3, "protocol": "fixed_total"}
    iterative = uw.Study(model, (data.X, data.y), solver="block_cg", **settings).upweight(data.query)
    exact = uw.Study(model.double(), (data.X, data.y), solver="cholesky", **settings).upweight(data.query)
    limit = 1e-6 if dtype == torch.float64 else 2e-4
    assert np.linalg.norm(iterative.values - exact.values) <= limit * np.linalg.norm(exact.values)
    assert "rows that hold 100% of the curvature" in iterative.verdict
    assert int(iterative.verdict.split(" iterations")[0].split()[-1]) <= 40


def test_block_cg_needs_a_matrix_that_is_positive_by_construction():
    study, query = study_of("linear", "hessian", solver="block_cg")
    with pytest.raises(uw.errors.ConfigError, match=r"may be indefinite. Expected curvature='ggn'"):
        study.upweight(query)
