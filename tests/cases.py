"""Small fitted problems shared by the tests, all seeded and in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import upweight as uw


@dataclass(frozen=True)
class Problem:
    """Training data and queries."""

    X: np.ndarray
    y: np.ndarray
    Xt: np.ndarray
    yt: np.ndarray

    def without(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        keep = np.arange(len(self.y)) != i
        return self.X[keep], self.y[keep]

    @property
    def query(self) -> tuple[np.ndarray, np.ndarray]:
        return self.Xt, self.yt


def regression(n: int = 40, p: int = 4, m: int = 3, seed: int = 0, outputs: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    X, Xt = rng.standard_normal((n, p)), rng.standard_normal((m, p))
    shape = (p, outputs) if outputs else (p,)
    beta = rng.standard_normal(shape)
    tail = shape[1:]
    return Problem(X, X @ beta + rng.standard_normal((n, *tail)), Xt, Xt @ beta + rng.standard_normal((m, *tail)))


def classification(n: int = 60, p: int = 4, m: int = 4, classes: int = 2, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((p, classes))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        X = rng.standard_normal((count, p))
        return X, (X @ W + rng.gumbel(size=(count, classes))).argmax(1)

    return Problem(*draw(n), *draw(m))


def slope(true: np.ndarray, predicted: np.ndarray) -> float:
    """Regression slope of the truth on the prediction: 1 when the scale is right."""
    x, y = np.ravel(predicted), np.ravel(true)
    return float(np.cov(x, y)[0, 1] / np.var(x, ddof=1))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def fit(model: nn.Module, X, y, loss, weights, penalty: float = 0.0, steps: int = 60) -> nn.Module:
    """Minimise Σwℓ + ½λ‖θ‖² by plain torch, independent of the library: L-BFGS to rounding."""
    X, y, weights = (torch.as_tensor(a) for a in (X, y, weights))
    optimiser = torch.optim.LBFGS(
        model.parameters(),
        lr=1,
        max_iter=500,
        tolerance_grad=1e-14,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        value = (weights * loss(model(X), y)).sum() + 0.5 * penalty * sum(p.square().sum() for p in model.parameters())
        value.backward()
        return value

    for _ in range(steps):
        optimiser.step(closure)
    polish(
        model,
        lambda: (weights * loss(model(X), y)).sum() + 0.5 * penalty * sum(p.square().sum() for p in model.parameters()),
    )
    return model


def polish(model: nn.Module, objective, steps: int = 5) -> None:
    """Newton steps by plain double autograd, to take a small model to rounding."""
    parameters = list(model.parameters())
    for _ in range(steps):
        slopes = torch.cat([g.reshape(-1) for g in torch.autograd.grad(objective(), parameters, create_graph=True)])
        rows = [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(s, parameters, retain_graph=True)]) for s in slopes
        ]
        step = torch.linalg.solve(torch.stack(rows), slopes.detach())
        with torch.no_grad():
            for p, move in zip(parameters, torch.split(step, [p.numel() for p in parameters]), strict=True):
                p -= move.view_as(p)
    for p in parameters:
        p.grad = None


def mlp(inputs: int = 3, hidden: int = 4, outputs: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double().eval()


def fitted_mlp(n: int = 40, outputs: int = 3, penalty: float = 0.05, seed: int = 1, hidden: int = 2):
    """A small network at a minimum of its penalised mean loss, with its study."""
    problem = classification(n, 3, 3, outputs, seed)
    model = mlp(3, hidden, outputs, seed)
    X, y = torch.as_tensor(problem.X), torch.as_tensor(problem.y)
    ce = nn.CrossEntropyLoss(reduction="none")
    fit(model, X, y, ce, np.full(n, 1 / n), penalty)
    return model, problem, uw.Study(model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(penalty))


def flat(model: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
