"""Filters, stochastic and low-rank inverses against their dense twins: what each one claims, and what it refuses."""

import numpy as np
import pytest
import torch

import upweight as uw
from cases import slope
from upweight.linop import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    Kronecker,
    KroneckerEigen,
    LinearOperator,
)
from upweight.solve import (
    BlockCG,
    Mixture,
    Neumann,
    Ridge,
    Segment,
    filtered,
    lanczos,
    nystrom,
    nystrom_preconditioner,
    woodbury,
)
from upweight.solve.inverse import eigen
from upweight.solve.neumann import DRAWS, MARGIN, POWER_STEPS
from upweight.space import FlatLayout, LinearLayout
from upweight.tiles import DenseBlock, FactoredBlock, Rows

SEEDS = [0, 1, 2]


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=chance(seed), dtype=torch.float64)


def spd(p: int, seed: int = 0, least: float = 0.3) -> torch.Tensor:
    root = normal(p, p, seed=seed)
    matrix = root @ root.T / p + least * torch.eye(p, dtype=torch.float64)
    return (matrix + matrix.T) / 2


def with_spectrum(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    basis = torch.linalg.qr(normal(len(values), len(values), seed=seed)).Q
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


def symmetric(matrix: torch.Tensor) -> Dense:
    return Dense(matrix, is_symmetric=True)


def eye(p: int) -> torch.Tensor:
    return torch.eye(p, dtype=torch.float64)


def blocks(seed: int) -> BlockDiagonal:
    """A weight and its bias in a Kronecker eigenbasis, a Kronecker product, a diagonal and a dense block."""
    size = 34
    layer = LinearLayout(3, size, slice(4, 16), slice(21, 24))
    parts = (
        (layer, eigen(Kronecker(spd(3, seed), spd(5, seed + 10)))),
        (FlatLayout(size, slice(0, 4)), Diagonal(torch.rand(4, generator=chance(seed), dtype=torch.float64) + 0.2)),
        (FlatLayout(size, slice(16, 21)), symmetric(spd(5, seed + 20))),
        (FlatLayout(size, slice(24, 34)), Kronecker(spd(2, seed + 30), spd(5, seed + 40))),
    )
    return BlockDiagonal(size, parts)


def operator_of(kind: str, seed: int) -> LinearOperator:
    return {
        "dense": lambda: symmetric(spd(9, seed)),
        "damped": lambda: symmetric(spd(9, seed)).damped(0.4),
        "kronecker": lambda: Kronecker(spd(3, seed), spd(4, seed + 1)),
        "eigen": lambda: eigen(Kronecker(spd(3, seed), spd(4, seed + 1))),
        "diagonal": lambda: Diagonal(spd(7, seed).diagonal()),
        "identity": lambda: Identity(6),
        "blocks": lambda: blocks(seed),
    }[kind]()


KINDS = ["dense", "damped", "kronecker", "eigen", "diagonal", "identity", "blocks"]


def segment_twin(matrix: torch.Tensor, rate: float) -> torch.Tensor:
    """∫₀ʳ e^{−sA} ds, the corner of an exponential twice the size: no division by an eigenvalue anywhere."""
    p = len(matrix)
    whole = torch.cat([torch.cat([-matrix, eye(p)], 1), torch.zeros(p, 2 * p, dtype=torch.float64)])
    return torch.linalg.matrix_exp(rate * whole)[:p, p:]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_ridge_filter_is_the_inverse_of_the_damped_matrix(kind, seed):
    operator = operator_of(kind, seed)
    found = filtered(operator, Ridge(0.37))
    expected = torch.linalg.inv(operator.dense() + 0.37 * eye(operator.size))
    torch.testing.assert_close(found.dense(), expected)
    torch.testing.assert_close(found.dense(), uw.inverse(operator.damped(0.37)).dense())
    rows = normal(3, operator.size, seed=seed)
    torch.testing.assert_close(found.solve(rows).rows, rows @ expected)
    assert found.verdict.damping == pytest.approx(0.37) and found.verdict.residual < 1e-12
    assert "ridge with λ = 0.37" in str(found.verdict) and found.symmetric and found.T is found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_segment_filter_is_the_integral_of_the_flow(kind, seed):
    operator = operator_of(kind, seed)
    for rate in (1e-3, 0.8, 30.0):
        torch.testing.assert_close(filtered(operator, Segment(rate)).dense(), segment_twin(operator.dense(), rate))


def test_the_segment_filter_is_the_rate_where_the_curvature_vanishes():
    small = torch.tensor([0.0, 5e-324, 1e-300, 1e-17, 1e-9, 2.0], dtype=torch.float64)
    found = filtered(Diagonal(small), Segment(4.0)).dense().diagonal()
    torch.testing.assert_close(found[:4], torch.full((4,), 4.0, dtype=torch.float64), atol=0, rtol=1e-14)
    assert float(found[4]) == pytest.approx(4.0 * (1 - 4e-9 / 2), rel=1e-15)
    assert float(found[5]) == pytest.approx((1 - np.exp(-8)) / 2, rel=1e-14)
    singular = with_spectrum(torch.tensor([0.0, 0.0, 1.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(filtered(symmetric(singular), Segment(4.0)).dense(), segment_twin(singular, 4.0))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mixture_filter_is_a_sum_of_dense_inverses(kind, seed):
    operator, terms = operator_of(kind, seed), ((0.5, 0.1), (2.0, 3.0), (0.0, 0.7))
    expected = sum(b * torch.linalg.inv(operator.dense() + a * eye(operator.size)) for b, a in terms)
    found = filtered(operator, Mixture(terms))
    torch.testing.assert_close(found.dense(), expected)
    assert "mixture of 3 ridges" in str(found.verdict) and found.verdict.residual is None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_relative_filter_measures_every_block_in_its_own_mean(seed):
    operator = blocks(seed)
    ridge, segment = filtered(operator, Ridge(0.2, relative=True)), filtered(operator, Segment(3.0, relative=True))
    mixture = filtered(operator, Mixture(((0.5, 0.2), (1.5, 2.0)), relative=True))
    torch.testing.assert_close(
        ridge.dense(), uw.inverse(uw.curvature.damped(operator, uw.Relative(0.2))).dense(), atol=1e-10, rtol=1e-8
    )
    for layout, block in operator.parts:
        matrix, mean = block.dense(), float(block.dense().diagonal().mean())
        unit = layout.gather(normal(4, operator.size, seed=5))
        rows = torch.zeros(4, operator.size, dtype=torch.float64)
        layout.scatter(unit, rows)
        inner = lambda share, matrix=matrix, mean=mean: torch.linalg.inv(matrix + share * mean * eye(len(matrix)))  # noqa: E731
        torch.testing.assert_close(layout.gather(rows @ ridge), unit @ inner(0.2))
        torch.testing.assert_close(layout.gather(rows @ segment), unit @ segment_twin(matrix, 3.0 / mean))
        torch.testing.assert_close(layout.gather(rows @ mixture), unit @ (0.5 * inner(0.2) + 1.5 * inner(2.0)))
    assert ridge.verdict.damping_share == pytest.approx(0.2)
    assert "of the mean eigenvalue" in ridge.verdict.method and "4 blocks" in ridge.verdict.method


def test_eigenvalues_below_zero_are_taken_as_zero_and_said():
    values = torch.tensor([[4.0, -0.5], [2.0, -1e-9]], dtype=torch.float64)
    found = filtered(KroneckerEigen(eye(2), eye(2), values), Ridge(0.5, relative=True))
    mean = (4.0 + 2.0) / 4
    torch.testing.assert_close(1 / found.operator.values, values.clamp_min(0) + 0.5 * mean)
    assert "2 eigenvalues below zero taken as zero" in found.verdict.method
    rounding = filtered(symmetric(with_spectrum(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))), Ridge(0.5))
    assert "below zero" not in rounding.verdict.method


def test_filters_refuse_what_they_cannot_mean():
    for make in (
        lambda: Ridge(-1),
        lambda: Ridge(float("nan")),
        lambda: Segment(0),
        lambda: Segment(float("inf")),
        lambda: Mixture(((-0.1, 1.0),)),
        lambda: Mixture(((0.1, 0.0),)),
        lambda: Mixture(()),
        lambda: Mixture(((0.0, 1.0),)),
    ):
        with pytest.raises(uw.errors.ConfigError, match=r"(Ridge|Segment|Mixture) found .* Expected"):
            make()
    for operator in (Dense(spd(3)), symmetric(spd(3)) + Identity(3)):
        with pytest.raises(uw.errors.ConfigError, match=r"a filter found a (Dense|Sum).*Expected a symmetric matrix"):
            filtered(operator, Ridge(0.1))
    zero = Diagonal(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(
        uw.errors.IndefiniteCurvature, match=r"Ridge found an eigenvalue of 0.*give the filter a damping"
    ):
        filtered(zero, Ridge(0.0))
    with pytest.raises(uw.errors.IndefiniteCurvature, match=r"mean eigenvalue of 0.*relative=False"):
        filtered(zero, Segment(1.0, relative=True))


class Counted(LinearOperator):
    """An operator that counts its products, and the rows in them."""

    def __init__(self, base: LinearOperator) -> None:
        self.base, self.products, self.rows = base, 0, 0

    @property
    def size(self) -> int:
        return self.base.size

    @property
    def symmetric(self) -> bool:
        return self.base.symmetric

    def after(self, rows: torch.Tensor) -> torch.Tensor:
        self.products, self.rows = self.products + 1, self.rows + len(rows)
        return self.base.after(rows)

    def transpose(self) -> LinearOperator:
        return Counted(self.base.T)

    def dense(self) -> torch.Tensor:
        return self.base.dense()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_neumann_series_with_the_whole_matrix_is_the_dense_inverse(seed):
    matrix, rows = spd(12, seed), normal(5, 12, seed=seed + 50)
    structured = torch.linalg.inv(torch.diag(matrix.diagonal()))
    expected = rows @ torch.linalg.inv(matrix)
    for precondition in (None, lambda v: v @ structured):
        series = Neumann(symmetric(matrix), lambda _: symmetric(matrix), precondition)
        found = series.solve(rows)
        assert relative(found.rows, expected) < 1e-6
        assert slope(expected.numpy(), found.rows.numpy()) == pytest.approx(1, abs=1e-6)
        assert found.verdict.residual < 1e-6 and found.verdict.converged
        assert ("preconditioned" in found.verdict.method) == (precondition is not None)
    torch.testing.assert_close(series.dense(), torch.linalg.inv(matrix), atol=1e-6, rtol=1e-6)
    assert series.T is series and series.size == 12


def test_a_preconditioner_shortens_the_series():
    """Steps for one digit more are in proportion to the condition number that is left."""
    matrix = with_spectrum(torch.logspace(-3, 0, 20, dtype=torch.float64))
    near = torch.linalg.inv(matrix @ (eye(20) + 0.1 * spd(20, 1)))
    near = (near + near.T) / 2
    rows, expected = normal(3, 20, seed=1), normal(3, 20, seed=1) @ torch.linalg.inv(matrix)
    make = lambda precondition: Neumann(symmetric(matrix), lambda _: symmetric(matrix), precondition, steps=100)  # noqa: E731
    plain, helped = make(None).solve(rows), make(lambda v: v @ near).solve(rows)
    assert relative(plain.rows, expected) > 0.5 and not plain.verdict.converged
    assert relative(helped.rows, expected) < 1e-4 and helped.verdict.iterations == 100


def test_the_bias_of_the_series_is_as_stated():
    """On the lowest eigenvector the error after t steps is (1 − λ/σ)^t, averaged over the last half of them."""
    values = torch.tensor([0.01, 1.0, 2.0], dtype=torch.float64)
    for steps in (1, 7, 100):
        series = Neumann(Diagonal(values), lambda _: Diagonal(values), scale=2.0, steps=steps)
        row = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
        error = np.mean([(1 - 0.01 / 2) ** (t + 1) for t in range(steps // 2, steps)])
        found = series.solve(row)
        assert float(found.rows[0, 0]) == pytest.approx(100 * (1 - error), rel=1e-10)
        assert found.verdict.residual == pytest.approx(error, rel=1e-10)
        assert error <= (1 - 0.01 / 2) ** (steps / 2)


X = normal(400, 10, seed=3)
WHOLE = symmetric(X.T @ X / 400 + 0.5 * eye(10))


def minibatch(size: int):
    def sampled(generator: torch.Generator) -> LinearOperator:
        some = X[torch.randint(400, (size,), generator=generator)]
        return symmetric(some.T @ some / size + 0.5 * eye(10))

    return sampled


@pytest.mark.parametrize("precondition", [None, lambda v: v / WHOLE.dense().diagonal()])
def test_the_noise_of_minibatches_is_reported_and_falls_with_the_root_of_the_steps(precondition):
    rows = normal(4, 10, seed=8)
    expected = rows @ torch.linalg.inv(WHOLE.dense())
    errors = []
    for repeats in (1, 16):
        series = [Neumann(WHOLE, minibatch(8), precondition, repeats=repeats, steps=100, seed=s) for s in range(8)]
        found = [one.solve(rows) for one in series]
        for answer in found:
            left = answer.rows @ WHOLE.dense() - rows
            assert answer.verdict.residual == pytest.approx(
                float((left.norm(dim=1) / rows.norm(dim=1)).max()), rel=1e-9
            )
            assert (not answer.verdict.converged) == (answer.verdict.residual > 0.01)
        assert found[0].verdict.iterations == 100 * repeats
        errors.append(np.sqrt(np.mean([relative(answer.rows, expected) ** 2 for answer in found])))
    assert errors[0] < 0.2 and 2.5 < errors[0] / errors[1] < 6.4  # √16 = 4
    mean = torch.stack([answer.rows for answer in found]).mean(0)
    assert slope(expected.numpy(), mean.numpy()) == pytest.approx(1, abs=0.01)


def test_a_seed_gives_one_answer_and_another_seed_another():
    rows = normal(2, 10, seed=8)
    found = [Neumann(WHOLE, minibatch(8), steps=50, seed=seed).solve(rows).rows for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2], rtol=1e-6)
    assert relative(found[0], found[2]) < 0.5
    same = Neumann(WHOLE, minibatch(8), steps=50)
    assert torch.equal(same.solve(rows).rows, same.solve(rows).rows)


def lonely(count: int = 16):
    """Minibatches that see one direction each: the norm of the mean is 1, that of any of them is ``count``."""
    whole = (1 + 0.05) * eye(count)

    def sampled(generator: torch.Generator) -> LinearOperator:
        entries = torch.full((count,), 0.05, dtype=torch.float64)
        entries[torch.randint(count, (1,), generator=generator)] += count
        return Diagonal(entries)

    return symmetric(whole), sampled


def test_the_scale_is_measured_on_minibatches_and_not_on_the_whole():
    whole, sampled = lonely()
    full, minibatches = 1.05, 16.05
    assert float(torch.linalg.eigvalsh(whole.dense())[-1]) == pytest.approx(full)
    series = Neumann(whole, sampled, steps=2000, repeats=4)
    assert series.largest == pytest.approx(minibatches, rel=1e-6)
    assert series.chosen_scale == pytest.approx(MARGIN * minibatches, rel=1e-6)
    answer, generator = torch.zeros(1, 16, dtype=torch.float64), chance(0)
    for _ in range(300):  # what the norm of the whole would have done
        answer = answer + (normal(1, 16, seed=2) - sampled(generator).after(answer)) / full
    assert not float(answer.norm()) < 1e6
    assert series.solve(normal(1, 16, seed=2)).verdict.residual < 0.3
    with pytest.raises(uw.errors.ConfigError, match=r"scale=1.05, at which the series diverges.*16.*scale of 8.03"):
        Neumann(whole, sampled, scale=full).solve(normal(1, 16, seed=2))


def test_the_largest_of_unequal_minibatches_sets_the_scale():
    def sampled(generator: torch.Generator) -> LinearOperator:
        return (1.0 + 6.0 * float(torch.rand(1, generator=generator) < 0.3)) * Identity(5)

    assert Neumann(Identity(5), sampled).largest == pytest.approx(7.0)


def test_the_measured_scale_of_a_preconditioned_series_is_the_norm_of_the_product():
    matrix, other = spd(9, 4), spd(9, 5)
    series = Neumann(symmetric(matrix), lambda _: symmetric(matrix), lambda v: v @ other)
    largest = float(torch.linalg.eigvals(matrix @ other).real.max())
    assert series.largest <= largest * (1 + 1e-12)
    assert series.largest == pytest.approx(largest, rel=0.02)


def test_a_diverging_scale_is_refused_before_any_product_with_the_rows():
    exact, sampled = Counted(symmetric(spd(8))), Counted(symmetric(spd(8)))
    largest = float(torch.linalg.eigvalsh(spd(8))[-1])
    series = Neumann(exact, lambda _: sampled, scale=0.45 * largest)
    with pytest.raises(uw.errors.ConfigError, match=rf"scale={0.45 * largest:.3g}, at which.*pass scale="):
        series.solve(normal(3, 8))
    assert exact.products == 0 and sampled.products == sampled.rows == DRAWS * POWER_STEPS
    for fine in (0.55, 1.0, 5.0):
        steps = Neumann(exact, lambda _: sampled, scale=fine * largest, steps=3000)
        assert steps.solve(normal(3, 8)).verdict.residual < 1e-6
        assert steps.chosen_scale == pytest.approx(fine * largest)


def test_the_neumann_series_refuses_what_cannot_converge():
    matrix = symmetric(spd(6))
    for settings in ({"steps": 0}, {"repeats": 0}, {"scale": 0.0}, {"scale": -1}, {"scale": float("nan")}):
        with pytest.raises(uw.errors.ConfigError, match=r"Neumann found .*Expected"):
            Neumann(matrix, lambda _: matrix, **settings)
    with pytest.raises(uw.errors.ConfigError, match=r"not known to be symmetric"):
        Neumann(Dense(spd(6)), lambda _: matrix)
    with pytest.raises(uw.errors.ConfigError, match=r"preconditioner P with yPyᵀ = -.*positive definite"):
        Neumann(matrix, lambda _: matrix, lambda v: -v).solve(normal(1, 6))
    for bad in (0.0, float("nan")):
        with pytest.raises(uw.errors.IndefiniteCurvature, match=r"minibatch curvature has a largest eigenvalue of"):
            Neumann(matrix, lambda _, bad=bad: bad * matrix).solve(normal(1, 6))
    indefinite = Diagonal(torch.tensor([2.0, 1.0, -0.5], dtype=torch.float64))
    with pytest.raises(uw.errors.NotConverged, match=r"residual of .*raise the scale"):
        Neumann(indefinite, lambda _: indefinite, steps=60).solve(normal(1, 3))
    with pytest.raises(uw.errors.NotConverged, match=r"not finite at step .*curvature='ggn'"):
        Neumann(indefinite, lambda _: indefinite, steps=20000).solve(normal(1, 3))


def test_a_minibatch_that_is_not_finite_is_seen_wherever_it_is_drawn():
    drawn = []

    def sampled(_: torch.Generator) -> LinearOperator:
        drawn.append(1)
        return Diagonal(torch.full((4,), float("nan") if len(drawn) == 5 else 1.0, dtype=torch.float64))

    with pytest.raises(uw.errors.IndefiniteCurvature, match="largest eigenvalue of nan"):
        Neumann(Identity(4), sampled).solve(normal(1, 4))


@pytest.mark.parametrize("complement", ["zero", "damping"])
@pytest.mark.parametrize("seed", SEEDS)
def test_lanczos_of_full_rank_is_the_dense_inverse(seed, complement):
    matrix, rows = spd(15, seed), normal(4, 15, seed=seed)
    found = lanczos(symmetric(matrix), 15, damping=0.2, complement=complement, seed=seed)
    expected = torch.linalg.inv(matrix + 0.2 * eye(15))
    torch.testing.assert_close(found.dense(), expected)
    answer = found.solve(rows)
    torch.testing.assert_close(answer.rows, rows @ expected)
    assert answer.verdict.residual < 1e-10 and answer.verdict.iterations == 15
    assert answer.verdict.damping_share == pytest.approx(0.2 / float(matrix.diagonal().mean()), rel=1e-8)
    assert "100% of the trace" in answer.verdict.method
    undamped = lanczos(symmetric(matrix), 15, seed=seed)
    torch.testing.assert_close(undamped.dense(), torch.linalg.inv(matrix))
    for block in (blocks(seed), Identity(6), Diagonal(torch.linspace(1, 2, 9, dtype=torch.float64))):
        torch.testing.assert_close(lanczos(block, block.size).dense(), torch.linalg.inv(block.dense()))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ritz_pairs_kept_are_the_eigenpairs_of_largest_size(seed):
    values = torch.cat([torch.tensor([9.0, -7.0, 5.0, 4.0, -3.5]).double(), torch.linspace(-0.5, 1.0, 55).double()])
    matrix = with_spectrum(values, seed)
    found = lanczos(symmetric(matrix), 5, damping=10.0, seed=seed)
    torch.testing.assert_close(found.values - 10.0, values[:5])
    for value, vector in zip(values[:5], found.basis):
        assert float((vector @ matrix - value * vector).norm()) < 1e-6
    torch.testing.assert_close(found.basis @ found.basis.T, eye(5), atol=1e-10, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_low_rank_inverse_treats_its_complement_as_said(seed):
    values = torch.cat([torch.tensor([9.0, 7.0, 5.0]).double(), torch.linspace(0.1, 0.5, 47).double()])
    matrix, rows = with_spectrum(values, seed), normal(4, 50, seed=seed)
    vectors = torch.linalg.eigh(matrix).eigenvectors[:, -3:]
    inside = vectors @ vectors.T
    for complement, tail in (("zero", 0.0), ("damping", 1 / 0.3)):
        found = lanczos(symmetric(matrix), 3, damping=0.3, complement=complement, seed=seed).solve(rows)
        truncated = torch.linalg.inv(inside @ matrix @ inside + 0.3 * eye(50))
        expected = inside @ truncated + tail * (eye(50) - inside)
        torch.testing.assert_close(found.rows, rows @ expected, atol=1e-8, rtol=1e-6)
        left = found.rows @ (matrix + 0.3 * eye(50)) - rows
        assert found.verdict.residual == pytest.approx(float((left.norm(dim=1) / rows.norm(dim=1)).max()), rel=1e-9)
        share = float(found.verdict.method.split("about ")[1].split("%")[0]) / 100
        assert share == pytest.approx(21 / float(values.sum()), abs=0.05)


@pytest.mark.parametrize(
    "make", [lambda A, d: lanczos(A, 5, damping=d, complement="damping"), lambda A, d: nystrom(A, 5, d)]
)
def test_a_low_rank_that_leaves_out_more_than_the_damping_is_called_unconverged(make):
    matrix, rows = symmetric(with_spectrum(0.8 ** torch.arange(30, dtype=torch.float64))), normal(2, 30, seed=1)
    low, high = make(matrix, 1e-3).solve(rows).verdict, make(matrix, 1.0).solve(rows).verdict
    assert low.residual > 1 and not low.converged and "unconverged" in str(low)
    assert high.residual < 0.5 and not high.converged  # tens of percent are no answer either
    enough = make(matrix, 10.0).solve(rows).verdict
    assert enough.residual < 0.1 and enough.converged and "unconverged" not in str(enough)


def test_lanczos_goes_on_where_an_invariant_space_ends():
    repeated = with_spectrum(torch.tensor([3.0] * 4 + [1.0] * 5 + [0.5] * 6, dtype=torch.float64))
    torch.testing.assert_close(lanczos(symmetric(repeated), 15).dense(), torch.linalg.inv(repeated))
    found = lanczos(symmetric(repeated), 4, steps=12)
    torch.testing.assert_close(found.values, torch.full((4,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(lanczos(Identity(8), 8, damping=1.0).dense(), 0.5 * eye(8))
    torch.testing.assert_close(lanczos(Identity(1), 1).dense(), eye(1))
    zero = Diagonal(torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(lanczos(zero, 2, damping=0.5, complement="damping").dense(), 2 * eye(5))


def test_lanczos_refuses_what_has_no_inverse():
    matrix = symmetric(spd(6))
    for rank, settings in ((0, {}), (7, {}), (3, {"steps": 2}), (3, {"damping": -1.0}), (3, {"damping": float("nan")})):
        with pytest.raises(uw.errors.ConfigError, match=r"lanczos found .*Expected"):
            lanczos(matrix, rank, **settings)
    with pytest.raises(uw.errors.ConfigError, match=r"not known to be symmetric"):
        lanczos(Dense(spd(6)), 2)
    with pytest.raises(uw.errors.ConfigError, match=r"complement='damping' and damping=0"):
        lanczos(matrix, 2, complement="damping")
    with pytest.raises(uw.errors.ConfigError, match=r"complement='rest'.*Expected 'zero' or 'damping'"):
        lanczos(matrix, 2, damping=0.1, complement="rest")
    negative = Diagonal(torch.tensor([3.0, -2.0, 0.1], dtype=torch.float64))
    with pytest.raises(uw.errors.IndefiniteCurvature, match=r"Ritz value of -1.5.*pass damping=3.5"):
        lanczos(negative, 2, damping=0.5)
    lanczos(negative, 2, damping=3.5)
    low = symmetric(with_spectrum(torch.tensor([3.0, 2.0, 0.0, 0.0], dtype=torch.float64)))
    with pytest.raises(uw.errors.IndefiniteCurvature, match=r"or a lower rank"):
        lanczos(low, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_nystrom_of_full_rank_is_the_dense_inverse(seed):
    for operator in (symmetric(spd(14, seed)), blocks(seed)):
        p = operator.size
        found = nystrom(operator, p, 0.15, seed)
        rows = normal(3, p, seed=seed)
        expected = torch.linalg.inv(operator.dense() + 0.15 * eye(p))
        torch.testing.assert_close(found.dense(), expected, atol=1e-9, rtol=1e-7)
        answer = found.solve(rows)
        torch.testing.assert_close(answer.rows, rows @ expected, atol=1e-9, rtol=1e-7)
        assert answer.verdict.residual < 1e-9
        mean = float(operator.dense().diagonal().mean())
        assert answer.verdict.damping_share == pytest.approx(0.15 / mean, rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_nystrom_is_exact_where_the_rank_is_no_higher(seed):
    values = torch.cat([torch.tensor([5.0, 3.0, 2.0, 1.0]), torch.zeros(26)]).double()
    matrix = with_spectrum(values, seed)
    for rank in (4, 7, 20):
        found = nystrom(symmetric(matrix), rank, 0.01, seed)
        torch.testing.assert_close(found.dense(), torch.linalg.inv(matrix + 0.01 * eye(30)), atol=1e-8, rtol=1e-6)
        assert "100% of the trace" in found.verdict.method


@pytest.mark.parametrize("seed", SEEDS)
def test_nystrom_is_the_textbook_projection_and_says_what_it_leaves(seed):
    """A_nys = (ΩA)ᵀ(ΩAΩᵀ)⁻¹ΩA is below A; its residual is that of the true matrix."""
    matrix, rows = with_spectrum(0.7 ** torch.arange(40, dtype=torch.float64), seed), normal(2, 40, seed=seed)
    found = nystrom(symmetric(matrix), 10, 1e-3, seed)
    omega = torch.linalg.qr(normal(40, 10, seed=seed)).Q.T
    textbook = (omega @ matrix).T @ torch.linalg.inv(omega @ matrix @ omega.T) @ (omega @ matrix)
    torch.testing.assert_close(torch.linalg.inv(found.dense()) - 1e-3 * eye(40), textbook, atol=1e-9, rtol=1e-7)
    assert float(torch.linalg.eigvalsh(matrix - textbook)[0]) > -1e-10
    answer = found.solve(rows)
    left = answer.rows @ (matrix + 1e-3 * eye(40)) - rows
    assert answer.verdict.residual == pytest.approx(float((left.norm(dim=1) / rows.norm(dim=1)).max()), rel=1e-9)
    assert answer.verdict.residual > 0.1
    assert not torch.allclose(found.dense(), nystrom(symmetric(matrix), 10, 1e-3, seed + 1).dense())


def test_the_nystrom_preconditioner_is_its_formula_and_saves_iterations():
    values = torch.cat(
        [torch.logspace(4, 0, 40, dtype=torch.float64), 1e-3 * torch.rand(160, generator=chance(0)).double()]
    )
    matrix, damping = with_spectrum(values), 1e-2
    precondition = nystrom_preconditioner(symmetric(matrix), 60, damping)
    low = torch.linalg.eigh(torch.linalg.inv(nystrom(symmetric(matrix), 60, damping).dense()) - damping * eye(200))
    U, kept = low.eigenvectors[:, -60:], low.eigenvalues[-60:]
    formula = (U * ((kept[0] + damping) / (kept + damping))) @ U.T + eye(200) - U @ U.T
    torch.testing.assert_close(precondition(eye(200)), formula, atol=1e-6, rtol=1e-5)
    A, rows = symmetric(matrix).damped(damping), normal(1, 200, seed=4)
    plain = BlockCG(A, A, lambda v: v).solve(rows).verdict
    helped = BlockCG(A, A, precondition).solve(rows).verdict
    assert plain.residual < 1e-7 and helped.residual < 1e-7
    assert 3 * helped.iterations <= plain.iterations


def test_nystrom_refuses_what_it_cannot_fill():
    matrix = symmetric(spd(6))
    for make in (nystrom, nystrom_preconditioner):
        for rank, damping in ((0, 0.1), (7, 0.1), (3, 0.0), (3, -1.0), (3, float("inf"))):
            with pytest.raises(uw.errors.ConfigError, match=rf"{make.__name__} found .*Expected"):
                make(matrix, rank, damping)
        with pytest.raises(uw.errors.ConfigError, match=r"not known to be symmetric"):
            make(Dense(spd(6)), 2, 0.1)
        with pytest.raises(uw.errors.IndefiniteCurvature, match=r"Nyström sketch .* has an eigenvalue of -.*lanczos"):
            make(Diagonal(torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)), 3, 0.1)


def tiles(R: torch.Tensor, size: int = 4) -> Rows:
    return Rows(len(R), R.shape[1], lambda: iter([DenseBlock(part) for part in R.split(size)]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_woodbury_is_the_dense_inverse(kind, seed):
    operator = operator_of(kind, seed).damped(0.1)
    p = operator.size
    R, rows = normal(11, p, seed=seed + 7), normal(3, p, seed=seed)
    found = woodbury(operator, tiles(R))
    matrix = operator.dense() + R.T @ R
    expected = torch.linalg.inv(matrix)
    answer = found.solve(rows)
    torch.testing.assert_close(answer.rows, rows @ expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(found.dense(), expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(found.operator.dense(), matrix)
    torch.testing.assert_close(found.operator.T.dense(), matrix)
    left = answer.rows @ matrix - rows
    assert answer.verdict.residual < 1e-10
    assert answer.verdict.residual == pytest.approx(float((left.norm(dim=1) / rows.norm(dim=1)).max()), abs=1e-12)
    assert "Woodbury on 11 rows" in str(answer.verdict) and answer.verdict.damping == pytest.approx(0.1)


def test_woodbury_takes_factored_tiles_and_a_base_of_its_own():
    layout = LinearLayout(3, 15, slice(0, 12), slice(12, 15))
    a, g = normal(6, 5, seed=1), normal(6, 3, seed=2)
    rows = Rows(6, 15, lambda: iter([FactoredBlock(a[:4], g[:4], layout), FactoredBlock(a[4:], g[4:], layout)]))
    matrix, R = Diagonal(torch.linspace(1, 2, 15, dtype=torch.float64)), rows.dense()
    expected = torch.linalg.inv(matrix.dense() + R.T @ R)
    torch.testing.assert_close(woodbury(matrix, rows).dense(), expected, atol=1e-10, rtol=1e-10)
    base = Diagonal(1 / matrix.entries)
    torch.testing.assert_close(woodbury(matrix, rows, base).dense(), expected, atol=1e-10, rtol=1e-10)
    wrong = woodbury(matrix, rows, Diagonal(1.1 / matrix.entries)).solve(normal(2, 15))
    assert wrong.verdict.residual > 0.01  # the residual is of the matrix, whatever the base claims


def test_woodbury_refuses_what_does_not_fit_or_match():
    R = normal(10, 6)
    woodbury(Identity(6), tiles(R), limit=1600)
    with pytest.raises(uw.errors.BudgetError, match=r"10 rows needs 1,600 bytes. Expected 1,599 at most"):
        woodbury(Identity(6), tiles(R), limit=1599)
    with pytest.raises(uw.errors.ShapeError, match=r"size 7 and 10 rows of length 6"):
        woodbury(Identity(7), tiles(R))
    with pytest.raises(uw.errors.ShapeError, match=r"size 6 and 0 rows of length 6"):
        woodbury(Identity(6), tiles(R[:0]))
    with pytest.raises(uw.errors.ConfigError, match=r"not known to be symmetric"):
        woodbury(Dense(spd(6)), tiles(R))
    with pytest.raises(uw.errors.IndefiniteCurvature, match=r"I \+ R D⁻¹Rᵀ has an eigenvalue of -"):
        woodbury(Identity(6), tiles(R), base=-1.0 * Identity(6))


def test_what_is_not_finite_is_named_and_never_solved_with():
    for bad in (float("nan"), float("inf")):
        diagonal = Diagonal(torch.tensor([1.0, bad, 2.0], dtype=torch.float64))
        for make in (
            lambda d=diagonal: filtered(d, Segment(1.0)),
            lambda d=diagonal: filtered(symmetric(d.dense()), Ridge(0.1)),
            lambda d=diagonal: lanczos(d, 2),
            lambda d=diagonal: nystrom(d, 2, 0.1),
            lambda d=diagonal: nystrom_preconditioner(d, 2, 0.1),
            lambda bad=bad: woodbury(Identity(3), tiles(torch.full((2, 3), bad, dtype=torch.float64))),
        ):
            with pytest.raises(uw.errors.NumericalError, match=r"numbers of the curvature that are not finite"):
                make()


def every_inverse():
    """One of each, with its dense twin and how near it must come."""
    matrix = symmetric(spd(10, 2))
    damped = torch.linalg.inv(matrix.dense() + 0.1 * eye(10))
    R = normal(4, 10, seed=9)
    small = matrix.damped(0.1)
    return {
        "filter": (filtered(matrix, Ridge(0.1)), damped),
        "neumann": (Neumann(small, lambda _: small), damped),
        "lanczos": (lanczos(matrix, 10, damping=0.1), damped),
        "nystrom": (nystrom(matrix, 10, 0.1), damped),
        "woodbury": (woodbury(matrix, tiles(R)), torch.linalg.inv(matrix.dense() + R.T @ R)),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["filter", "neumann", "lanczos", "nystrom", "woodbury"])
def test_every_inverse_takes_rows_and_columns_of_either_precision(name, dtype):
    found, expected = every_inverse()[name]
    rows = normal(3, 10, seed=6).to(dtype)
    tolerance = {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(found.solve(rows).rows, rows.double() @ expected, **tolerance)
    torch.testing.assert_close(rows @ found, rows.double() @ expected, **tolerance)
    torch.testing.assert_close(found @ rows.T, expected @ rows.double().T, **tolerance)
    torch.testing.assert_close(rows[0] @ found.T, rows[0].double() @ expected, **tolerance)
    zero = found.solve(torch.zeros(1, 10, dtype=dtype))
    assert not zero.rows.any() and not found.solve(rows[:1] * 0).verdict.residual > 1e-6
    assert found.solve(rows).verdict.residual < 1e-5


@pytest.mark.parametrize("name", ["lanczos", "nystrom", "preconditioner", "neumann"])
def test_a_matrix_in_float32_is_factored_in_float64(name):
    values = torch.cat([torch.tensor([5.0, 3.0, 2.0, 1.0]), torch.zeros(16)]).double()
    matrix = with_spectrum(values)
    operator, twin = symmetric(matrix.float()), torch.linalg.inv(matrix + 0.1 * eye(20))
    if name == "preconditioner":
        found = nystrom_preconditioner(operator, 8, 0.1)(eye(20))
        assert found.dtype == torch.float32  # working precision, as the basis of a block solve
        torch.testing.assert_close(found, found.T, atol=1e-5, rtol=0)
        return
    found = {
        "lanczos": lambda: lanczos(operator, 4, damping=0.1, complement="damping"),
        "nystrom": lambda: nystrom(operator, 8, 0.1),
        "neumann": lambda: Neumann(operator.damped(0.1), lambda _: operator.damped(0.1), steps=3000),
    }[name]()
    assert relative(found.solve(eye(20)).rows, twin) < 1e-5


def test_the_global_random_state_is_as_found():
    torch.manual_seed(123)
    before, everything = torch.get_rng_state(), every_inverse()
    for found, _ in everything.values():
        found.solve(normal(1, 10))
    nystrom_preconditioner(symmetric(spd(10)), 3, 0.1)
    assert torch.equal(before, torch.get_rng_state())


def test_block_cg_that_stops_near_the_answer_says_it_is_unconverged():
    matrix = symmetric(with_spectrum(torch.logspace(0, -1.5, 40, dtype=torch.float64)))
    rows, wanted = normal(1, 40, seed=3), torch.linalg.inv(matrix.dense())
    found = None
    for steps in range(4, 40):
        try:
            found = BlockCG(matrix, matrix, lambda rows: rows, steps=steps, accept=1e-3).solve(rows)
            break
        except uw.errors.NotConverged:
            continue
    assert found is not None and 1e-7 < found.verdict.residual <= 1e-3
    assert not found.verdict.converged and "unconverged" in str(found.verdict)
    left = (rows - found.rows @ matrix.dense()).norm(dim=1) / rows.norm(dim=1)
    assert float(left.max()) == pytest.approx(found.verdict.residual, rel=1e-6)
    assert (found.rows - rows @ wanted).norm() < (rows @ wanted).norm()
    with pytest.raises(uw.errors.NotConverged):
        BlockCG(matrix, matrix, lambda rows: rows, steps=steps).solve(rows)
