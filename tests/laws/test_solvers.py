"""Low-rank inverses against their dense twins, and what every inverse must do: what each one claims, and what it refuses."""

import pytest
import torch

import upweight as uw
from matrices import KINDS, SEEDS, blocks, chance, eye, normal, operator_of, relative, spd, symmetric, with_spectrum
from upweight.linop import Dense, Diagonal, Identity
from upweight.solve import (
    BlockCG,
    Neumann,
    Ridge,
    Segment,
    filtered,
    lanczos,
    nystrom,
    nystrom_preconditioner,
    woodbury,
)
from upweight.space import LinearLayout
from upweight.tiles import DenseBlock, FactoredBlock, Rows


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
