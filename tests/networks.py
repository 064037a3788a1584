"""Real networks, each trained for a second or two on bundled digits, and plain autograd to hold the library against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

CLASSES, TRAINED, QUERIES = 4, 96, 5
WIDTH, HEADS, ROWS = 8, 2, 8


class Residual(nn.Module):
    """conv-norm-relu-conv-norm beside a skip, overwritten in place as residual networks do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        found = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        found += x
        return self.relu(found)


class Attention(nn.Module):
    """Self-attention by its formula, one matrix for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (b, heads, s, i)
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A classifier of a digit's rows as a sequence of tokens, with learned positions."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.embed, self.layers, self.head = nn.Linear(8, WIDTH), layers, nn.Linear(WIDTH, CLASSES)
        self.positions = nn.Parameter(0.1 * torch.randn(ROWS, WIDTH))

    def forward(self, x):
        return self.head(self.layers(self.embed(x) + self.positions).mean(1))


class Recurrent(nn.Module):
    """An LSTM over a digit's rows with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(8, WIDTH, batch_first=True), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.GroupNorm(2, 6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
    )


def residual() -> nn.Module:
    stem = nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
    return nn.Sequential(*stem, Residual(6), Residual(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES))


def builtin() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.1, batch_first=True)
    return Transformer(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


MAKE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (64,)),
    "cnn": (cnn, (1, 8, 8)),
    "residual": (residual, (1, 8, 8)),
    "transformer": (lambda: Transformer(nn.Sequential(*[Block() for _ in range(4)])), (ROWS, 8)),
    "built-in transformer": (builtin, (ROWS, 8)),
    "lstm": (Recurrent, (ROWS, 8)),
}
"""How each network is made, and the shape it takes a digit in."""


@dataclass(frozen=True)
class Trained:
    """A trained network in eval mode, its training data and queries."""

    model: nn.Module
    X: torch.Tensor
    y: torch.Tensor
    Xt: torch.Tensor
    yt: torch.Tensor

    @property
    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.X, self.y

    @property
    def query(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.Xt, self.yt


def digits(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Real digits of the first classes, from 0 to 1."""
    images, labels = load_digits(n_class=CLASSES, return_X_y=True)
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[: TRAINED + QUERIES]
    return torch.as_tensor(images)[chosen].div(16).reshape(-1, *shape), torch.as_tensor(labels)[chosen].long()


@cache
def trained(name: str) -> Trained:
    """A network trained by Adam with a little weight decay, in train mode as one does; copy it before changing it."""
    make, shape = MAKE[name]
    X, y = digits(shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
        for _ in range(60):
            optimiser.zero_grad()
            F.cross_entropy(model(X[:TRAINED]), y[:TRAINED]).backward()
            optimiser.step()
        optimiser.zero_grad()
    return Trained(model.eval(), X[:TRAINED], y[:TRAINED], X[TRAINED:], y[TRAINED:])


def relative(found: Any, truth: Any) -> float:
    """The largest error in units of the largest true entry."""
    truth = torch.as_tensor(truth)
    return float((torch.as_tensor(found) - truth).abs().max() / truth.abs().max())


def plain_gradient(model: nn.Module, value: torch.Tensor, names: list[str] | None = None) -> torch.Tensor:
    """∇value by autograd, (p,), of all parameters or those named."""
    chosen = [p for name, p in model.named_parameters() if names is None or name in names]
    found = torch.autograd.grad(value, chosen, retain_graph=True, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, chosen, strict=True)])


def plain_gradients(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """∇ℓᵢ by plain autograd, one example at a time, (n, p)."""
    return torch.stack(
        [plain_gradient(model, F.cross_entropy(model(X[i : i + 1]), y[i : i + 1])) for i in range(len(X))]
    )


def label_gradients(model: nn.Module, X: torch.Tensor) -> torch.Tensor:
    """√p_k ∇(−log p_k) of every label k by plain autograd, one example at a time, (n, k, p)."""

    def of_example(x: torch.Tensor) -> torch.Tensor:
        logs = F.log_softmax(model(x.unsqueeze(0))[0], 0)
        return torch.stack([(0.5 * log).exp().detach() * plain_gradient(model, -log) for log in logs])

    return torch.stack([of_example(x) for x in X])


def factors(model: nn.Module, X: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For every linear and convolutional layer: coordinates (o, i), the mean of aaᵀ over positions reached in some layer of as many, E Σ ggᵀ."""
    place, at = 0, {}
    for p in model.parameters():
        at[id(p)] = torch.arange(place, place + p.numel())
        place += p.numel()
    seen: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
    kinds = nn.Linear, nn.Conv2d
    handles = [
        module.register_forward_hook(lambda module, args, output: seen.append((module, args[0], output)))
        for module in model.modules()
        if type(module) in kinds
    ]
    logs = F.log_softmax(model(X), 1)
    for handle in handles:
        handle.remove()
    slopes = [
        torch.stack(
            [
                by_position(layer, torch.autograd.grad(-log, output, (0.5 * log).exp().detach(), True)[0])
                for log in logs.T
            ]
        )
        for layer, _, output in seen
    ]  # (k, b·s, o) each
    reached: dict[int, torch.Tensor] = {}
    for g in slopes:
        mine = g.ne(0).any(2).any(0)
        reached[g.shape[1]] = reached.get(g.shape[1], mine) | mine
    for (layer, given, _), g in zip(seen, slopes, strict=True):
        where = at[id(layer.weight)].view(len(layer.weight), -1)
        a = given.reshape(-1, given.shape[-1]) if isinstance(layer, nn.Linear) else windows(layer, given)
        if layer.bias is not None:
            where, a = torch.cat([where, at[id(layer.bias)].unsqueeze(1)], 1), torch.cat([a, a.new_ones(len(a), 1)], 1)
        if len(a) > len(X):
            a = a[reached[len(a)]]
        yield where, (a.T @ a / len(a)).detach(), torch.einsum("kso,ksx->ox", g, g) / len(X)


def by_position(layer: nn.Module, slopes: torch.Tensor) -> torch.Tensor:
    """Output gradients of a layer, (b·s, o)."""
    return slopes.flatten(0, -2) if isinstance(layer, nn.Linear) else slopes.transpose(0, 1).flatten(1).T


def windows(layer: nn.Conv2d, given: torch.Tensor) -> torch.Tensor:
    """The window of every output position, (b·s, i)."""
    return F.unfold(given, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT.flatten(0, 1)


def dense_ekfac_inverse(model: nn.Module, X: torch.Tensor, penalty: float, share: float) -> torch.Tensor:
    """(F_ekfac + penalty + share · mean eigenvalue of each block)⁻¹, written out from plain autograd."""
    rows = label_gradients(model, X).flatten(0, 1) / len(X) ** 0.5  # (n·k, p)
    found, left = torch.zeros(rows.shape[1], rows.shape[1]).double(), torch.ones(rows.shape[1], dtype=torch.bool)

    def add(where: torch.Tensor, basis: torch.Tensor | None) -> None:
        own = rows[:, where].T @ rows[:, where]
        if basis is not None:
            own = basis @ torch.diag((basis.T @ own @ basis).diagonal()) @ basis.T
        eye = torch.eye(len(where)).double()
        own = own + penalty * eye
        found[where.unsqueeze(1), where] = torch.linalg.inv(own + share * own.diagonal().mean() * eye)
        left[where] = False

    for where, a, g in factors(model, X):
        add(where.flatten(), torch.kron(torch.linalg.eigh(g)[1], torch.linalg.eigh(a)[1]))
    place = 0
    for p in model.parameters():
        where = torch.arange(place, place + p.numel())
        place += p.numel()
        if left[where].any():
            add(where, None)
    return found
