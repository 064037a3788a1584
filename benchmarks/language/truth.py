"""The truth of the language model: fine-tuned again on random halves of the 2,048 sequences, the loss of every query after each.

python language/truth.py 40     so many halves; each is kept when it is finished, and asking again goes on

Training on a half leaves the others out of the batches: order and start are those of the whole run, steps are half as many.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from language.problem import BATCH, DATA, EPOCHS, OPTIMIZER, build, load, mixed
from tqdm import tqdm
from transformer.problem import next_symbols

from upweight.evaluate import SubsetTruth, Training, random_subsets
from upweight.float32_products import fast_float32
from upweight.objective import read_loss

MOST = 200
"""Masks that are drawn: asking for more of them later gives the same first ones."""
TUNED, TRUTH = DATA / "language-tuned.npz", DATA / "language-truth.npz"


def training() -> tuple[Training, torch.Tensor]:
    """The fine-tuning, and the query tokens."""
    state, train, query = load()
    data = train, next_symbols(train)
    recipe = Training(
        build, data, "token_cross_entropy", OPTIMIZER, EPOCHS, BATCH, forward=mixed, start=state, skip=True
    )
    return recipe, query


def query_losses(recipe: Training, state: dict[str, torch.Tensor], query: torch.Tensor) -> np.ndarray:
    """Nats of every query's whole sequence, in float32."""
    model, loss = recipe.model(state), read_loss("token_cross_entropy")
    with torch.no_grad(), fast_float32():
        outputs, targets = loss.prepare(model(query), next_symbols(query))
    return recipe.criterion.values(outputs, targets).numpy().astype(np.float64)


def main(count: int) -> None:
    """The whole run once, then the halves that are missing."""
    recipe, query = training()
    if not TUNED.exists():
        state = recipe(recipe.equal_weights, 0)
        np.savez(TUNED, **{name: value.numpy() for name, value in state.items()})
        print("mean query loss, whole:", query_losses(recipe, state, query).mean())
    kept = random_subsets(len(recipe.examples), MOST, 0.5, seed=0)
    known = list(SubsetTruth.load(TRUTH).mean) if TRUTH.exists() else []
    for mask in tqdm(kept[len(known) : count], file=sys.stderr):
        state = recipe(np.where(mask, 2 / len(mask), 0.0), 0)
        known.append(query_losses(recipe, state, query))
        SubsetTruth.of(kept[: len(known)], np.stack(known)).save(TRUTH)


if __name__ == "__main__":
    main(int(sys.argv[1]))
