"""Spectral filters against their dense twins: ridges, segments of gradient flow, mixtures."""

import numpy as np
import pytest
import torch

import upweight as uw
from matrices import KINDS, SEEDS, blocks, eye, normal, operator_of, spd, symmetric, with_spectrum
from upweight.linop import Dense, Diagonal, Identity, KroneckerEigen
from upweight.solve import Mixture, Ridge, Segment, filtered


def segment_twin(matrix: torch.Tensor, rate: float) -> torch.Tensor:
    """∫₀ʳ e^{−sA} ds, the corner of an exponential twice the size: no division by an eigenvalue anywhere."""
    p = len(matrix)
    whole = torch.cat([torch.cat([-matrix, eye(p)], 1), torch.zeros(p, 2 * p, dtype=torch.float64)])
    return torch.linalg.matrix_exp(rate * whole)[:p, p:]


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
