"""The appendix at parameters that are deliberately not a minimum: A7, A11, and when the approximation is good."""

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from cases import classification, fitted_mlp, flat, mlp

TIGHT = 1e-10
ce = nn.CrossEntropyLoss(reduction="none")


def brute_force(model, problem, penalty, share):
    """H, g and every example's own gradient and Hessian by plain double autograd."""
    X, y = torch.as_tensor(problem.X), torch.as_tensor(problem.y)
    names = [name for name, _ in model.named_parameters()]
    theta = torch.as_tensor(flat(model))

    def loss(vector, where):
        pieces = torch.split(vector, [p.numel() for p in model.parameters()])
        state = {name: piece.view_as(p) for name, piece, p in zip(names, pieces, model.parameters(), strict=True)}
        return (
            ce(torch.func.functional_call(model, state, (X[where],)), y[where]).mean()
            + share * penalty / 2 * vector @ vector
        )

    def both(where):
        return (
            torch.autograd.functional.jacobian(lambda v: loss(v, where), theta).numpy(),
            torch.autograd.functional.hessian(lambda v: loss(v, where), theta).numpy(),
        )

    return both


def unconverged(distance: float, protocol: str = "fixed_mean"):
    """A small penalised network moved off its minimum by a given distance."""
    model, problem, _ = fitted_mlp()
    move = torch.randn(len(flat(model)), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    move = distance * move / move.norm()
    with torch.no_grad():
        for p, step in zip(model.parameters(), torch.split(move, [p.numel() for p in model.parameters()]), strict=True):
            p += step.view_as(p)
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.05), protocol=protocol)
    return model, problem, study


@pytest.mark.parametrize("protocol", ["fixed_mean", "fixed_total"])
@pytest.mark.parametrize("epsilon", [-1 / 40, 0.02, 1e-6])
def test_the_step_equals_brute_force(epsilon, protocol):
    model, problem, study = unconverged(0.2, protocol)
    share = 1.0 if protocol == "fixed_mean" else 0.0
    g, H = brute_force(model, problem, 0.05, 1.0)(slice(None))
    of_example = brute_force(model, problem, 0.05, share)
    found = study.newton_step([4, 11], epsilon)
    for row, i in enumerate([4, 11]):
        g_i, H_i = of_example(slice(i, i + 1))
        step = -np.linalg.solve(H + epsilon * H_i, g + epsilon * g_i)
        np.testing.assert_allclose(found.step[row], step, atol=TIGHT)
        np.testing.assert_allclose(found.constant[row], -np.linalg.solve(H, g), atol=TIGHT)
        np.testing.assert_allclose(found.contribution[row], -epsilon * np.linalg.solve(H, g_i), atol=TIGHT)
        np.testing.assert_allclose(
            found.remainder[row], step + np.linalg.solve(H, g) + epsilon * np.linalg.solve(H, g_i), atol=TIGHT
        )


def test_a_damped_study_takes_damped_steps():
    model, problem, _ = unconverged(0.2)
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.05), damping=0.3)
    both = brute_force(model, problem, 0.05, 1.0)
    (g, H), (g_i, H_i) = both(slice(None)), both(slice(4, 5))
    H = H + 0.3 * np.eye(len(H))
    found = study.newton_step(4, -1 / 40)
    np.testing.assert_allclose(found.step[0], -np.linalg.solve(H - H_i / 40, g - g_i / 40), atol=TIGHT)
    np.testing.assert_allclose(found.constant[0], -np.linalg.solve(H, g), atol=TIGHT)
    np.testing.assert_allclose(found.contribution[0], np.linalg.solve(H, g_i) / 40, atol=TIGHT)
    assert found.damping == 0.3 and "λ = 0.3" in repr(found)


def test_the_difference_of_steps_uses_the_gradient_less_its_curvature_along_the_pending_step():
    model, problem, study = unconverged(0.2)
    epsilon = -1 / 40
    both = brute_force(model, problem, 0.05, 1.0)
    g, H = both(slice(None))
    s = np.linalg.solve(H, g)
    found = study.newton_step(list(range(40)), epsilon)
    for i in range(40):
        g_i, H_i = both(slice(i, i + 1))
        difference = -epsilon * np.linalg.solve(H + epsilon * H_i, g_i - H_i @ s)
        np.testing.assert_allclose(found.step[i] - found.constant[i], difference, atol=TIGHT)
    assert np.ptp(found.constant, axis=0).max() == 0


def test_the_limit_of_small_epsilon_is_the_newton_estimand():
    model, problem, study = unconverged(0.5)
    both = brute_force(model, problem, 0.05, 1.0)
    g, H = both(slice(None))
    s = np.linalg.solve(H, g)
    with pytest.warns(uw.errors.NotStationaryWarning):
        newton = study.parameters([7], estimand="newton").values[0]
    with pytest.warns(uw.errors.NotStationaryWarning):
        response = study.parameters([7]).values[0]
    g_i, H_i = both(slice(7, 8))
    np.testing.assert_allclose(newton, -np.linalg.solve(H, g_i - H_i @ s), atol=TIGHT)
    np.testing.assert_allclose(response, -np.linalg.solve(H, g_i), atol=TIGHT)
    errors = []
    for epsilon in (1e-2, 1e-3, 1e-4):
        split = study.newton_step(7, epsilon)
        errors.append(np.linalg.norm((split.step - split.constant)[0] / epsilon - newton))
    assert errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1]
    assert np.linalg.norm(newton - response) > 0.1 * np.linalg.norm(response)


def test_constant_plus_contribution_is_good_when_the_gradient_and_epsilon_are_small(capsys):
    """The dropped part is O(ε‖g‖ + ε²); the table shows a reader when appendix B may be used."""
    table = {}
    for distance in (0.0, 0.02, 0.2):
        _, _, study = unconverged(distance)
        size = float(study.fitted.stationarity.gradient.norm())
        for epsilon in (0.04, 0.004, 0.0004):
            found = study.newton_step(7, epsilon)
            table[distance, epsilon] = np.linalg.norm(found.remainder) / np.linalg.norm(found.contribution)
            print(
                f"‖g‖ {size:8.2e}   ε {epsilon:7.4f}   dropped share of the contribution {table[distance, epsilon]:.2e}"
            )
    assert "dropped share" in capsys.readouterr().out
    assert table[0.0, 0.0004] < 0.02 * table[0.0, 0.04]
    assert table[0.2, 0.0004] == pytest.approx(table[0.2, 0.004], rel=0.2), (
        "off the minimum the share is O(‖g‖) and does not fall with ε"
    )
    assert table[0.02, 0.0004] < 0.3 * table[0.2, 0.0004]


def test_at_a_minimum_the_two_estimands_agree():
    _, problem, study = fitted_mlp()
    query = (problem.Xt, problem.yt)
    np.testing.assert_allclose(study.upweight(query).values, study.upweight(query, estimand="newton").values, atol=1e-8)
    np.testing.assert_allclose(study.drop(query).values, study.drop(query, estimand="newton").values, atol=1e-8)


@pytest.mark.parametrize("protocol", ["fixed_mean", "fixed_total"])
def test_the_newton_drop_of_a_linear_model_is_the_difference_of_two_newton_steps(protocol):
    problem = classification(n=30, p=3, classes=3)
    torch.manual_seed(0)
    model = nn.Linear(3, 3).double().eval()
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.1), protocol=protocol)
    share = 1.0 if protocol == "fixed_mean" else 0.0
    g, H = brute_force(model, problem, 0.1, 1.0)(slice(None))
    of_example = brute_force(model, problem, 0.1, share)
    with pytest.warns(uw.errors.NotStationaryWarning):
        newton = study.drop(measure="parameters", estimand="newton").values
    with pytest.warns(uw.errors.NotStationaryWarning):
        response = study.drop(measure="parameters").values
    for i in (0, 13):
        g_i, H_i = of_example(slice(i, i + 1))
        step = -np.linalg.solve(H - H_i / 30, g - g_i / 30) + np.linalg.solve(H, g)
        np.testing.assert_allclose(newton[:, i], step, atol=TIGHT)
        np.testing.assert_allclose(response[:, i], np.linalg.solve(H - H_i / 30, g_i / 30), atol=TIGHT)


def test_networks_have_an_exact_hessian():
    model = mlp()
    problem = classification(n=20, p=3, classes=3)
    study = uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.3))
    _, H = brute_force(model, problem, 0.3, 1.0)(slice(None))
    np.testing.assert_allclose(uw.curvature.hessian(study.objective).dense().numpy(), H, atol=1e-12)
