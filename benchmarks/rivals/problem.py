"""A network of 31 parameters at a minimum, its data, its exact influence by dense autograd, and what is done to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

PENALTY, TRAIN, QUERIES, CLASSES = 0.05, 24, 5, 3


@dataclass(frozen=True)
class Problem:
    """What a library is given: model, training set, queries, and how the training set is read."""

    model: nn.Module
    X: torch.Tensor
    y: torch.Tensor
    Xt: torch.Tensor
    yt: torch.Tensor
    batch: int = TRAIN
    shuffle: bool = False


def network(dropout: float = 0.0) -> nn.Module:
    """The same initial parameters whatever the dropout."""
    torch.manual_seed(0)
    first, last = nn.Linear(3, 4), nn.Linear(4, CLASSES)
    return (
        nn.Sequential(first, nn.Tanh(), nn.Dropout(dropout), last) if dropout else nn.Sequential(first, nn.Tanh(), last)
    )


def problem(dropout: float = 0.0) -> Problem:
    """Trained to a minimum of the mean loss with PENALTY/2‖θ‖²."""
    random = torch.Generator().manual_seed(1)
    X = torch.randn(TRAIN + QUERIES, 3, generator=random)
    y = (X @ torch.randn(3, CLASSES, generator=random) + torch.randn(len(X), CLASSES, generator=random)).argmax(1)
    model = network(dropout).eval()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2000, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        decay = sum(p.square().sum() for p in model.parameters())
        value = F.cross_entropy(model(X[:TRAIN]), y[:TRAIN]) + PENALTY / 2 * decay
        value.backward()
        return value

    optimizer.step(objective)
    return Problem(model, X[:TRAIN], y[:TRAIN], X[TRAIN:], y[TRAIN:])


def exact(given: Problem) -> torch.Tensor:
    """∇ℓ_qᵀ(H + λI)⁻¹∇ℓᵢ/n over the parameters that are not frozen, in float64, (QUERIES, TRAIN)."""
    named = {name: p.detach().double() for name, p in given.model.named_parameters()}
    free = {name for name, p in given.model.named_parameters() if p.requires_grad}
    sizes = [named[name].numel() for name in named if name in free]

    def losses(theta: torch.Tensor, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        parts = iter(theta.split(sizes))
        values = {name: next(parts).view_as(p) if name in free else p for name, p in named.items()}
        return F.cross_entropy(torch.func.functional_call(given.model, values, (X.double(),)), y, reduction="none")

    theta = torch.cat([named[name].flatten() for name in named if name in free])
    H = torch.autograd.functional.hessian(lambda t: losses(t, given.X, given.y).mean(), theta)
    G = torch.autograd.functional.jacobian(lambda t: losses(t, given.X, given.y), theta)
    T = torch.autograd.functional.jacobian(lambda t: losses(t, given.Xt, given.yt), theta)
    return T @ torch.linalg.solve(H + PENALTY * torch.eye(len(theta)).double(), G.T) / TRAIN


def spoilt(tensor: torch.Tensor, value: float) -> torch.Tensor:
    """A copy with one entry of its third row replaced."""
    copy = tensor.clone()
    copy[2] = value if copy.ndim == 1 else torch.cat([torch.tensor([value]), copy[2, 1:]])
    return copy


def left_in_train_mode() -> Problem:
    """A network with dropout that its user forgot to put into eval mode."""
    found = problem(dropout=0.5)
    found.model.train()
    return found


def first_layer_frozen() -> Problem:
    """Only the last layer is to be looked at."""
    found = problem()
    found.model[0].requires_grad_(False)
    return found


SITUATIONS: dict[str, Callable[[], Problem]] = {
    "as documented, the training set in one batch": problem,
    "the training set in batches of 7": lambda: replace(problem(), batch=7),
    "a training loader that shuffles": lambda: replace(problem(), batch=7, shuffle=True),
    "first layer frozen": first_layer_frozen,
    "dropout, model left in train mode": left_in_train_mode,
    "NaN in one training row": lambda: replace(p := problem(), X=spoilt(p.X, float("nan"))),
    "NaN in one query": lambda: replace(p := problem(), Xt=spoilt(p.Xt, float("nan"))),
    "a label out of range": lambda: replace(p := problem(), y=spoilt(p.y, 7)),
}
"""What is done to every library, in words."""
