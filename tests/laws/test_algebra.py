"""Operators against their dense twins; inverses of H and of Hᵀ; one formula for every estimator."""

import numpy as np
import pytest
import torch

import upweight as uw
from cases import fitted_mlp
from upweight.influence.changes import Changes, corrected
from upweight.linop import Dense, Diagonal
from upweight.solve.cg import BlockCG
from upweight.space import LinearLayout
from upweight.tiles import DenseBlock, DenseJacobian, FactoredBlock, LinearJacobian


def spd(p: int = 7, seed: int = 0) -> torch.Tensor:
    root = torch.randn(p, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix = root @ root.T + torch.eye(p)
    return (matrix + matrix.T) / 2  # to the last bit, whatever order the product adds in


def general(p: int = 7) -> torch.Tensor:
    return spd(p) + torch.triu(torch.ones(p, p, dtype=torch.float64), 1)


OPERATORS = {
    "dense": Dense(general()),
    "symmetric": Dense(spd(), is_symmetric=True),
    "diagonal": Diagonal(torch.linspace(1, 2, 7, dtype=torch.float64)),
    "damped": Dense(general()).damped(0.3),
    "sum": Dense(general()) + Diagonal(torch.linspace(1, 2, 7, dtype=torch.float64)),
    "scaled": 2.5 * Dense(general()),
    "transposed": Dense(general()).T,
    "inverse": uw.inverse(Dense(spd(), is_symmetric=True)),
    "inverse of a general matrix": uw.inverse(Dense(general())),
    "inverse of a transpose": uw.inverse(Dense(general())).T,
    "inverse of a diagonal": uw.inverse(Diagonal(torch.linspace(1, 2, 7, dtype=torch.float64))),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_products_equal_the_dense_twin(name):
    operator, matrix = OPERATORS[name], OPERATORS[name].dense()
    rows = torch.randn(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(rows @ operator, rows @ matrix)
    torch.testing.assert_close(rows[0] @ operator, rows[0] @ matrix)
    torch.testing.assert_close(operator @ rows.T, matrix @ rows.T)
    torch.testing.assert_close(operator @ rows[0], matrix @ rows[0])
    torch.testing.assert_close(rows @ operator.T, rows @ matrix.T)
    assert operator.size == 7
    assert operator.symmetric == torch.equal(matrix, matrix.T) or not operator.symmetric


@pytest.mark.parametrize("matrix", [Dense(spd(), is_symmetric=True), Dense(general()), Dense(general()).damped(0.7)])
def test_an_inverse_undoes_its_matrix_on_the_right_side(matrix):
    inverse = uw.inverse(matrix)
    rows = torch.randn(4, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close((rows @ inverse) @ matrix, rows)
    torch.testing.assert_close(matrix @ (inverse @ rows.T), rows.T)
    torch.testing.assert_close(inverse.dense(), torch.linalg.inv(matrix.dense()))
    assert inverse.verdict.residual < 1e-12


def test_the_formula_keeps_h_apart_from_its_transpose():
    H, T, C = general(), torch.randn(2, 7).double(), torch.randn(5, 7).double()
    expected = -T @ torch.linalg.inv(H) @ C.T
    inverse = uw.inverse(Dense(H))
    torch.testing.assert_close(uw.effect(T, inverse, C), expected)
    torch.testing.assert_close(uw.effect(C, inverse, T), -C @ torch.linalg.inv(H) @ T.T)
    assert not torch.allclose(expected, -T @ torch.linalg.inv(H.T) @ C.T)


def test_the_correction_solves_with_h_and_not_with_its_transpose():
    generator = torch.Generator().manual_seed(4)
    H = general()
    J, a = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 2, 7), (3, 2)))
    M = 0.1 * torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    inverse = uw.inverse(Dense(H))
    changes = Changes(DenseJacobian(J), a, lambda: M)
    moves = -(changes.block(corrected(changes, inverse).push).dense() @ inverse.T)
    for k in range(3):
        expected = -torch.linalg.solve(H + J[k].T @ M[k] @ J[k], J[k].T @ a[k])
        torch.testing.assert_close(moves[k], expected)
        assert not torch.allclose(moves[k], -torch.linalg.solve(H.T + J[k].T @ M[k] @ J[k], J[k].T @ a[k]))


def test_the_facade_is_nothing_but_the_algebra():
    _, problem, study = fitted_mlp()
    objective = study.objective
    C = uw.rows(objective)
    T = uw.rows(objective, problem.query)
    Hinv = uw.inverse(uw.curvature.hessian(objective).damped(1e-3))
    damped = uw.Study(
        objective.model,
        objective.examples,
        loss="cross_entropy",
        penalty=uw.L2(0.05),
        damping=1e-3,
        protocol="fixed_total",
    )
    np.testing.assert_allclose(uw.effect(T, Hinv, C).numpy(), damped.upweight(problem.query).values, atol=1e-12)
    np.testing.assert_allclose((-(T @ Hinv @ C.T)).numpy(), damped.upweight(problem.query).values, atol=1e-12)
    assert C.shape == (40, objective.space.size)


def test_the_gauss_newton_matrix_leaves_out_the_model_s_own_curvature():
    _, problem, study = fitted_mlp()
    objective = study.objective
    found = uw.curvature.ggn(objective).dense().numpy()
    J = study.fitted.engine.jacobian(objective.examples.read(slice(0, 40))).dense()
    outputs, targets = study.fitted.engine.outputs(objective.examples.read(slice(0, 40)))
    expected = torch.einsum(
        "nop,nox,nxq->pq", J, objective.loss.hessian(outputs, targets), J
    ).numpy() / 40 + 0.05 * np.eye(J.shape[2])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found - uw.curvature.hessian(objective).dense().numpy()).max() > 1e-3
    ggn = uw.Study(
        objective.model,
        objective.examples,
        loss="cross_entropy",
        penalty=uw.L2(0.05),
        curvature="ggn",
        protocol="fixed_total",
    )
    C, T = (
        uw.rows(objective).dense().numpy(),
        uw.rows(objective, problem.query).dense().numpy(),
    )
    np.testing.assert_allclose(ggn.upweight(problem.query).values, -T @ np.linalg.solve(found, C.T), atol=1e-10)


def test_block_conjugate_gradients_give_the_dense_answer():
    matrix = spd(40)
    operator = Dense(matrix, is_symmetric=True)
    solver = BlockCG(Dense(matrix.float(), is_symmetric=True), operator, lambda rows: rows.float(), tolerance=1e-10)
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = solver.solve(rows)
    torch.testing.assert_close(found.rows, rows @ torch.linalg.inv(matrix), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(rows @ solver, found.rows)
    assert found.verdict.iterations > 0 and found.verdict.residual <= 1e-10


def test_block_conjugate_gradients_that_run_out_say_so():
    operator = Dense(spd(40), is_symmetric=True)
    solver = BlockCG(Dense(spd(40).float(), is_symmetric=True), operator, lambda rows: rows.float(), steps=2)
    with pytest.raises(uw.errors.NotConverged, match="after 2 steps"):
        torch.randn(1, 40, dtype=torch.float64) @ solver


@pytest.mark.parametrize(
    "layout",
    [
        LinearLayout(3, 15, slice(0, 12), slice(12, 15)),
        LinearLayout(3, 15, slice(3, 15), slice(0, 3)),
        LinearLayout(3, 12, slice(0, 12), None),
        LinearLayout(3, 3, None, slice(0, 3)),
    ],
)
def test_factored_tiles_equal_their_dense_twins(layout):
    torch.manual_seed(0)
    width = (4 if layout.weight is not None else 0) + (layout.bias is not None)
    a, g = torch.randn(6, width).double(), torch.randn(6, 3).double()
    factored, jacobian = FactoredBlock(a, g, layout), LinearJacobian(a, layout)
    dense, twin = DenseBlock(factored.dense()), DenseJacobian(jacobian.dense())
    rows, weights, matrix = torch.randn(5, layout.size).double(), torch.rand(6).double(), general(layout.size)
    torch.testing.assert_close(jacobian.vjp(g).dense(), twin.vjp(g).dense())
    torch.testing.assert_close(factored.against(rows), dense.against(rows))
    torch.testing.assert_close(factored.sum(weights), dense.sum(weights))
    torch.testing.assert_close(factored.squared_norms(), dense.squared_norms())
    torch.testing.assert_close(jacobian.jvp(rows), twin.jvp(rows))
    for operator in (Dense(matrix), Dense(spd(layout.size), is_symmetric=True)):
        torch.testing.assert_close(jacobian.sandwich(operator), twin.sandwich(operator))
    torch.testing.assert_close(jacobian.select(torch.tensor([4, 1])).dense(), twin.values[[4, 1]])
    symmetric = torch.stack([spd(3, seed) for seed in range(6)])
    first, second = torch.zeros(layout.size, layout.size).double(), torch.zeros(layout.size, layout.size).double()
    jacobian.add_gram(symmetric, first)
    twin.add_gram(symmetric, second)
    torch.testing.assert_close(first, second)
