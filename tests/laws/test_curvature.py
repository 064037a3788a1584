"""Structured curvature against its dense definition, on networks with layers used once, shared, tied and without factors."""

import numpy as np
import pytest
import torch
from test_layers import N, objective_of, vectors
from torch import nn

import upweight as uw
from upweight.adapters.torch import Form, adapt_module
from upweight.curvature.fisher import label_slopes, read_fisher
from upweight.gradients import engine_for
from upweight.linop import BlockDiagonal, KroneckerEigen
from upweight.objective import read_loss
from upweight.objective.draws import Draws

NETWORKS = [
    "linear",
    "linear over positions",
    "conv2d",
    "transposed2d",
    "layer norm",
    "embedding",
    "tied",
    "reused",
    "free parameter",
]
FISHERS = ["exact", "empirical"]


def dense_fisher(objective, fisher: str) -> torch.Tensor:
    """Σ wᵢ Σ_u (Jᵀu)(Jᵀu)ᵀ from the general engine's Jacobian, written out."""
    engine = engine_for(objective)
    batch = objective.examples.read(slice(0, N))
    outputs, targets = engine.outputs(batch)
    rows = [
        torch.einsum("bo,bop->bp", u, engine.jacobian(batch).dense())
        for u in label_slopes(objective.loss, outputs, targets, fisher, Draws(0, np.arange(len(outputs))))
    ]
    spread = objective.weights.sqrt()[:, None]
    return sum((row * spread).T @ (row * spread) for row in rows)


def masked_to_blocks(matrix: torch.Tensor, operator: BlockDiagonal) -> torch.Tensor:
    """The matrix with everything outside the operator's blocks set to zero."""
    found = torch.zeros_like(matrix)
    for layout, _ in operator.parts:
        where = torch.zeros(len(matrix), dtype=torch.bool)
        for start, stop in layout.places:
            where[start:stop] = True
        found[where.nonzero(), where.nonzero().T] = matrix[where.nonzero(), where.nonzero().T]
    return found


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_block_diagonal_fisher_is_the_fisher_s_own_blocks(name, fisher):
    objective = objective_of(name)
    found = uw.curvature.block_diagonal(objective, fisher)
    truth = dense_fisher(objective, fisher)
    torch.testing.assert_close(found.dense(), masked_to_blocks(truth, found), atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(
        uw.curvature.diagonal(objective, fisher).dense(), torch.diag(truth.diagonal()), atol=1e-10, rtol=1e-8
    )


def test_with_an_exact_fisher_the_blocks_are_the_gauss_newton_matrix_s():
    objective = objective_of("conv2d")
    found = uw.curvature.block_diagonal(objective, "exact")
    torch.testing.assert_close(
        found.dense(), masked_to_blocks(uw.curvature.ggn(objective).dense(), found), atol=1e-10, rtol=1e-8
    )


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_ekfac_is_the_fisher_s_diagonal_in_kfac_s_eigenbasis(name, fisher):
    objective = objective_of(name)
    found = uw.curvature.ekfac(objective, fisher)
    truth = dense_fisher(objective, fisher)
    seen = 0
    for layout, block in found.parts:
        own = layout.gather(layout.gather(truth).T)  # the block in the layer's own order of coordinates
        if isinstance(block, KroneckerEigen):
            basis = torch.kron(block.left, block.right)
            torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis), dtype=torch.float64), atol=1e-10, rtol=0)
            torch.testing.assert_close(
                block.values.flatten(), (basis.T @ own @ basis).diagonal(), atol=1e-10, rtol=1e-8
            )
            seen += 1
        elif name != "tied":
            torch.testing.assert_close(block.dense(), own, atol=1e-10, rtol=1e-8)
    assert seen or name == "tied"


@pytest.mark.parametrize("name", ["linear", "conv2d", "linear over positions"])
def test_kfac_is_a_product_of_second_moments(name):
    """E[Σ_s ggᵀ] ⊗ mean_s[aaᵀ], from inputs and output gradients taken by hand."""
    objective = objective_of(name)
    engine = engine_for(objective)
    batch = objective.examples.read(slice(0, N))
    found = uw.curvature.kfac(objective, "empirical")
    block = engine.gradients(batch)
    for (layout, kronecker), part in zip(found.parts, block.parts, strict=True):
        a = part.inputs if part.inputs.ndim == 3 else part.inputs.unsqueeze(1)
        g = part.outputs if part.outputs.ndim == 3 else part.outputs.unsqueeze(1)
        torch.testing.assert_close(kronecker.left, torch.einsum("bso,bsx->ox", g, g) / N, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(
            kronecker.right, torch.einsum("bsi,bsx->ix", a, a) / (N * a.shape[1]), atol=1e-12, rtol=1e-9
        )
        assert layout == part.layout
    reduced = uw.curvature.kfac(objective, "empirical", sharing="reduce")
    g = block.parts[0].outputs if block.parts[0].outputs.ndim == 3 else block.parts[0].outputs.unsqueeze(1)
    torch.testing.assert_close(
        reduced.parts[0][1].left, torch.einsum("bo,bx->ox", g.sum(1), g.sum(1)) / N, atol=1e-12, rtol=1e-9
    )


def test_kfac_and_ekfac_are_exact_for_one_linear_layer_with_squared_loss():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double().eval()
    objective = adapt_module(model, (vectors(4), vectors(3)), Form("squared_error", penalty=uw.L2(0.1))).objective
    exact = uw.curvature.hessian(objective).dense()
    torch.testing.assert_close(uw.curvature.kfac(objective, "exact").dense(), exact, atol=1e-11, rtol=1e-9)
    torch.testing.assert_close(uw.curvature.ekfac(objective, "exact").dense(), exact, atol=1e-11, rtol=1e-9)
    torch.testing.assert_close(uw.curvature.ggn(objective).dense(), exact, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("kind", ["kfac", "ekfac", "diagonal", "block_diagonal"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_structured_curvature_does_not_depend_on_the_batch_size(kind, batch_size):
    make = getattr(uw.curvature, kind)
    small, whole = make(objective_of("conv2d", batch_size=batch_size), "exact"), make(objective_of("conv2d"), "exact")
    torch.testing.assert_close(small.dense(), whole.dense(), atol=1e-10, rtol=1e-8)


def test_a_second_walk_gives_what_keeping_the_first_gives(monkeypatch):
    kept = uw.curvature.ekfac(objective_of("linear"), "exact").dense()
    monkeypatch.setattr("upweight.router.KEPT_BYTES", 0)
    torch.testing.assert_close(uw.curvature.ekfac(objective_of("linear"), "exact").dense(), kept, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "squared_error", "poisson", "callable"])
def test_sampled_labels_have_the_covariance_of_the_loss_s_curvature(loss):
    form = (lambda f, y: (f - y).pow(2).sum(1) * 0.5 + f[:, 0] ** 4) if loss == "callable" else loss

    read = read_loss(form).bound((3,))
    outputs = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    targets = torch.tensor([1]) if loss == "cross_entropy" else torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    root = read.root(outputs, targets)
    torch.testing.assert_close(root @ root.mT, read.hessian(outputs, targets), atol=1e-12, rtol=1e-10)
    many = outputs.expand(40000, -1)
    draws = read.sampled(many, targets.expand(40000, *targets.shape[1:]), Draws(0, np.arange(40000)))
    torch.testing.assert_close(draws.T @ draws / 40000, read.hessian(outputs, targets)[0], atol=0.1, rtol=0.03)
    torch.testing.assert_close(draws.mean(0), torch.zeros(3).double(), atol=0.04, rtol=0)


def test_sampling_is_seeded_and_leaves_the_global_seed_alone():
    objective = objective_of("linear")
    state = torch.get_rng_state()
    first, again, other = (uw.curvature.ekfac(objective, "sampled", seed=seed).dense() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_a_penalty_is_added_exactly_where_it_is_the_same_all_over_a_layer():
    plain, penalised = objective_of("linear"), objective_of("linear", penalty=uw.L2(0.3))
    eye = torch.eye(plain.space.size, dtype=torch.float64)
    for kind in ("ekfac", "diagonal", "block_diagonal", "kfac"):
        make = getattr(uw.curvature, kind)
        torch.testing.assert_close(
            make(penalised, "exact").dense(), make(plain, "exact").dense() + 0.3 * eye, atol=1e-10, rtol=1e-8
        )


def test_inverting_blocks_inverts_the_matrix():
    operator = uw.curvature.ekfac(objective_of("layer norm"), "exact").damped(0.2)
    inverse = uw.inverse(operator)
    torch.testing.assert_close(inverse.dense(), torch.linalg.inv(operator.dense()), atol=1e-9, rtol=1e-7)
    rows = torch.randn(3, inverse.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close((rows @ inverse) @ operator, rows, atol=1e-9, rtol=1e-8)
    assert inverse.verdict.damping == 0.2 and "blocks" in inverse.verdict.method


class Masked(nn.Module):
    """Averages a layer over the positions that are not padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        real = x[..., -1:] > 0  # the last feature marks what is real
        hidden = torch.tanh(self.layer(x)) * real
        return self.head(hidden.sum(1) / real.sum(1))


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_padding_changes_no_factor(sharing):
    """However long, and whatever a layer is given there: no gradient arrives from it."""
    torch.manual_seed(0)
    model = Masked().double().eval()
    X = vectors(3, 4)
    X[..., -1] = 1
    X[::2, 2] = torch.tensor([0, 0, 0, -1])
    longer = torch.cat([X, torch.tensor([3.0, 1, 2, -1]).double().expand(N, 5, 4)], 1)
    short, long = (adapt_module(model, (x, torch.arange(N) % 3), Form("cross_entropy")).objective for x in (X, longer))
    torch.testing.assert_close(
        uw.curvature.kfac(long, sharing=sharing).dense(), uw.curvature.kfac(short, sharing=sharing).dense()
    )
    torch.testing.assert_close(uw.curvature.ekfac(long).dense(), uw.curvature.ekfac(short).dense())


def test_unknown_fishers_and_too_many_labels_are_refused():
    with pytest.raises(uw.errors.ConfigError, match=r"fisher='best' is unknown. Expected one of"):
        read_fisher("best", 3)
    with pytest.raises(uw.errors.BudgetError, match=r"1,000 outputs.*Expected at most 32; use fisher='sampled'"):
        read_fisher("exact", 1000)
    assert read_fisher("auto", 1000) == "sampled" and read_fisher("auto", 10) == "exact"
    with pytest.raises(uw.errors.ConfigError, match=r"sharing='mean' is unknown. Expected one of"):
        uw.curvature.kfac(objective_of("linear"), sharing="mean")


def test_curvature_that_is_not_finite_is_refused():
    objective = objective_of("linear")
    with torch.no_grad():
        objective.theta[0] = float("nan")
    with pytest.raises(uw.errors.NonFiniteGradient, match=r"output for training example 0 is NaN or infinite"):
        uw.curvature.kfac(objective, "empirical")
