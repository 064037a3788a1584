"""A causal transformer of Python's standard library, pretrained on its packages and fine-tuned on its top folder. NumPy and torch alone.

The first 64 symbols of 4,096 windows of the packages pretrain the 4-layer, 256-wide model of ``transformer/problem.py`` (two epochs); those of
2,048 windows of the top folder's modules fine-tune its 24 linear layers (two epochs), embeddings and head as they were; 50 more are queries.
The fine-tuning is what is attributed, and what is taken again on random halves. Both run in bfloat16 mixed precision.

python benchmarks/language/problem.py    prepare it all and keep it
"""

from __future__ import annotations

import sys
import sysconfig
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measured import DATA
from torch import nn
from tqdm import tqdm
from transformer.problem import WINDOW, Transformer, encode, next_symbols, sequence_loss, tracked_layers

BEFORE, TRAIN, QUERIES = 4096, 2048, 50
EPOCHS, BATCH, RATE, DECAY = 2, 16, 3e-4, 0.01
LENGTH = 64
BEFORE_EPOCHS, BEFORE_BATCH, BEFORE_RATE = 2, 32, 1e-3
TRACKED = "layers.*"
LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "pydoc_data", "encodings", "lib2to3", "__pycache__"}
"""Folders that are no prose of programmers: tables, tests, what others installed."""
OPTIMIZER = partial(torch.optim.AdamW, lr=RATE, weight_decay=DECAY)
KEPT = DATA / "language.npz"


def windows(files: list[Path], count: int, seed: int) -> np.ndarray:
    """Bytes (count, WINDOW), evenly spaced over the files, in a shuffled order."""
    text = np.frombuffer(b"\n".join(path.read_bytes() for path in files), dtype=np.uint8)
    starts = np.linspace(0, len(text) - WINDOW, count).astype(int)
    return text[np.random.default_rng(seed).permutation(starts)[:, None] + np.arange(WINDOW)]


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Windows of the packages, and of the top folder."""
    home = Path(sysconfig.get_path("stdlib"))
    packages = [path for path in sorted(home.rglob("*.py")) if path.parent != home]
    packages = [path for path in packages if not LEFT_OUT & set(path.relative_to(home).parts)]
    return windows(packages, BEFORE, 0), windows(sorted(home.glob("*.py")), TRAIN + QUERIES, 1)


def build() -> nn.Module:
    """The transformer, of which fine-tuning changes the linear layers of its blocks alone."""
    model = Transformer()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("layers."))
    return model


def mixed(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of a pass in bfloat16, and targets."""
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(batch[0])
    return outputs.float(), batch[1]


def pretrain(model: nn.Module, tokens: torch.Tensor) -> None:
    """AdamW over the packages, its rate rising over a tenth of the steps and falling to nothing."""
    steps = BEFORE_EPOCHS * len(tokens) // BEFORE_BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=BEFORE_RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, BEFORE_RATE, total_steps=steps, pct_start=0.1)
    order = torch.cat([torch.randperm(len(tokens)) for _ in range(BEFORE_EPOCHS)])
    for rows in (bar := tqdm(order.split(BEFORE_BATCH), unit="step", file=sys.stderr)):
        outputs, targets = mixed(model, (tokens[rows], next_symbols(tokens[rows])))
        loss = sequence_loss(outputs, targets, "mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix_str(f"{loss.item():.3f}")


def prepare() -> None:
    """Tokens of everything and the pretrained weights, into one file."""
    before, after = texts()
    tokens = torch.as_tensor(encode(np.concatenate([before, after])))[:, :LENGTH]
    torch.manual_seed(0)
    model = Transformer()
    pretrain(model, tokens[:BEFORE])
    KEPT.parent.mkdir(exist_ok=True)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    np.savez(KEPT, tokens=tokens[BEFORE:].numpy(), **weights)


def load() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """The pretrained state, training tokens (TRAIN, t) and query tokens (QUERIES, t)."""
    if not KEPT.exists():
        prepare()
    kept = np.load(KEPT)
    state = {name: torch.as_tensor(kept[name]) for name in kept.files if name != "tokens"}
    tokens = torch.as_tensor(kept["tokens"])
    return state, tokens[:TRAIN], tokens[TRAIN:]


def tuned() -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The fine-tuned model with its data: (model, tokens, targets, query tokens, query targets)."""
    _, train, query = load()
    model = build()
    found = np.load(DATA / "language-tuned.npz")
    model.load_state_dict({name: torch.as_tensor(found[name]) for name in found.files})
    return model.eval(), train, next_symbols(train), query, next_symbols(query)


__all__ = ["DATA", "build", "load", "tracked_layers", "tuned"]

if __name__ == "__main__":
    load()
