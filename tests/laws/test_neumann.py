"""The Neumann series, stochastic and whole: its bias, its noise, its scale, and what it refuses."""

import numpy as np
import pytest
import torch

import upweight as uw
from cases import slope
from matrices import SEEDS, Counted, chance, eye, normal, relative, spd, symmetric, with_spectrum
from upweight.linop import Dense, Diagonal, Identity, LinearOperator
from upweight.solve import Neumann
from upweight.solve.neumann import DRAWS, MARGIN, POWER_STEPS


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
