"""A small causal language model of Python's own standard library. NumPy and torch alone, for every environment.

Text: the .py files of the interpreter's standard library (its top folder, in order of name), one window of 1,024 bytes
every so many bytes. Vocabulary: 1,024 symbols, the 256 bytes and 768 merges of the most frequent pair, learnt on those
windows without word boundaries. A sequence is the first 128 symbols of a window; its last symbol has nothing to predict.

python benchmarks/transformer/problem.py    train it and keep it, as `make bench` does first
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import torch
from measured import DATA
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

VOCABULARY, LENGTH, WINDOW = 1024, 128, 1024
LAYERS, WIDTH, HEADS = 4, 256, 4
TRAIN, QUERIES = 1024, 50
STEPS, BATCH, RATE = 300, 32, 1e-3
NONE = -100
"""The target of a position that predicts nothing."""


class Attention(nn.Module):
    """Causal attention over what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = q @ k.mT / k.shape[3] ** 0.5
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(3) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(normed(x))
        return x + self.down(F.gelu(self.up(normed(x))))


class Transformer(nn.Module):
    """Symbols (b, t) to logits (b, t, VOCABULARY). Norms have no parameters; embeddings and head are not tracked."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.symbols(tokens) + self.places.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(normed(x))


TRACKED = "layers.*"
"""24 linear layers, 3,145,728 parameters."""


def normed(x: torch.Tensor) -> torch.Tensor:
    """Root mean square one."""
    return F.rms_norm(x, x.shape[-1:])


def tracked_layers(model: nn.Module) -> list[str]:
    """Names of the 24 linear layers."""
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name.startswith("layers")]


def windows(count: int) -> np.ndarray:
    """Bytes (count, WINDOW), evenly spaced over the standard library, in a shuffled order."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = np.frombuffer(b"\n".join(path.read_bytes() for path in files), dtype=np.uint8)
    starts = np.linspace(0, len(text) - WINDOW, count).astype(int)
    return text[np.random.default_rng(0).permutation(starts)[:, None] + np.arange(WINDOW)]


def encode(texts: np.ndarray) -> np.ndarray:
    """Symbols (count, LENGTH): the most frequent pair becomes a symbol of its own until there are VOCABULARY."""
    ends = np.full((len(texts), 1), -1)  # no pair reaches over a window's end
    symbols = np.concatenate([texts.astype(np.int64), ends], 1).ravel()
    for new in tqdm(range(256, VOCABULARY), unit="merge"):
        left, right = symbols[:-1], symbols[1:]
        pairs = np.where((left < 0) | (right < 0), 0, left * VOCABULARY + right)
        counts = np.bincount(pairs)
        counts[0] = 0
        symbols = merge(symbols, np.flatnonzero(pairs == counts.argmax()), new)
    rows = np.split(symbols, np.flatnonzero(symbols < 0)[:-1] + 1)
    return np.stack([row[:LENGTH] for row in rows])


def merge(symbols: np.ndarray, where: np.ndarray, new: int) -> np.ndarray:
    """Every pair that begins at `where` becomes `new`; in a run of one symbol, every other pair."""
    runs = np.maximum.accumulate(np.where(np.diff(where, prepend=-2) > 1, np.arange(len(where)), 0))
    where = where[(np.arange(len(where)) - runs) % 2 == 0]
    symbols = symbols.copy()
    symbols[where] = new
    return np.delete(symbols, where + 1)


def load(count: int = TRAIN, queries: int = QUERIES):
    """The fitted model with its data: (model, tokens, targets, query tokens, query targets); trained once, then kept."""
    path = DATA / "transformer.npz"
    if not path.exists():
        prepare(path)
    kept = np.load(path)
    model = Transformer()
    model.load_state_dict({name: torch.as_tensor(kept[name]) for name in kept.files if name != "tokens"})
    tokens = torch.as_tensor(kept["tokens"])
    train, query = tokens[:count], tokens[TRAIN : TRAIN + queries]
    return model.eval(), train, next_symbols(train), query, next_symbols(query)


def next_symbols(tokens: torch.Tensor) -> torch.Tensor:
    """What each position predicts."""
    return torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], NONE)], 1)


def sequence_loss(outputs: torch.Tensor, targets: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
    """Cross-entropy of the next symbol, summed over positions and sequences."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=NONE, reduction=reduction)


def prepare(path: Path) -> None:
    """Tokens and fitted weights, into one file."""
    tokens = torch.as_tensor(encode(windows(TRAIN + QUERIES)))
    torch.manual_seed(0)
    model = Transformer()
    train(model, tokens[:TRAIN])
    model.eval()
    with torch.no_grad():
        losses = [float(sequence_loss(model(t), next_symbols(t), "mean")) for t in (tokens[:128], tokens[TRAIN:])]
    print(f"nats a symbol: {losses[0]:.3f} in training, {losses[1]:.3f} held out")
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    path.parent.mkdir(exist_ok=True)
    np.savez(path, tokens=tokens.numpy(), **weights)


def train(model: nn.Module, tokens: torch.Tensor) -> None:
    """AdamW, its rate rising over a tenth of the steps and falling to nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for _ in (bar := tqdm(range(STEPS), unit="step")):
        batch = tokens[torch.randint(len(tokens), (BATCH,))]
        loss = sequence_loss(model(batch), next_symbols(batch), "mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix_str(f"{loss.item():.3f}")


def plain_epoch(model: nn.Module, tokens: torch.Tensor, targets: torch.Tensor, batch: int = BATCH):
    """One plain forward and backward pass over the training set, gradients of the tracked layers alone."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("layers"))

    def step() -> None:
        for inputs, wanted in zip(tokens.split(batch), targets.split(batch), strict=True):
            sequence_loss(model(inputs), wanted).backward()
        model.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    load()
