"""Figure 5: training pictures changed by less than anyone sees, until a network's top layer gets a test picture wrong."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from deep import Pair, shoes
from experiment import Result, report
from sklearn.linear_model import LogisticRegression

import upweight as uw

SIZES = {"small": ("digits", 60, 40, 800, 8), "full": ("fashion", 900, 300, 8_000, 4)}
"""Data, training and held-out pictures of each class, pictures of the other classes, and passes over them."""
RUNS = {"small": (6, (1, 5), 10), "full": (20, (1, 2, 10), 30)}
"""Test pictures that are attacked, training pictures that are changed, and steps."""
DECAY, BOX, LEVELS = 1e-3, 8 / 255, 8
"""Weight decay, how far a pixel may go, and steps that cross the box."""


def refit(F: np.ndarray, y: np.ndarray, start: LogisticRegression | None = None) -> LogisticRegression:
    """The top layer, from where it was."""
    top = LogisticRegression(C=1 / (len(y) * DECAY), tol=1e-10, max_iter=100, solver="newton-cholesky", warm_start=True)
    if start is not None:
        top.coef_, top.intercept_, top.classes_ = start.coef_.copy(), start.intercept_.copy(), start.classes_
    return top.fit(F, y)


def slopes(data: Pair, X: torch.Tensor, F: np.ndarray, top: LogisticRegression, which: np.ndarray, query: tuple) -> torch.Tensor:  # fmt: skip
    """I_pert,loss with respect to pixels: the study's, with respect to features, pulled back through the network."""
    study = uw.from_sklearn(top, F, data.y.numpy())
    onto_features = study.perturb(which, query).values[0]  # (k, features), wᵢ included
    pixels = X[which].clone().requires_grad_()
    return torch.autograd.grad(data.body(pixels), pixels, torch.as_tensor(onto_features).to(pixels))[0]


def attack(data: Pair, F: np.ndarray, top: LogisticRegression, query: tuple, count: int, steps: int, seed: int | None) -> bool:  # fmt: skip
    """Whether the test picture's prediction turns; with a seed, signs are random in place of the gradient's."""
    everyone = np.arange(len(data.y))
    reach = slopes(data, data.X, F, top, everyone, query).abs().sum((1, 2, 3))
    which = reach.topk(count).indices.numpy()
    X, own, F, chance = data.X.clone(), top, F.copy(), torch.Generator().manual_seed(seed or 0)
    signs = torch.randint(0, 2, X[which].shape, generator=chance) * 2 - 1
    for _ in range(steps):
        step = slopes(data, X, F, own, which, query).sign() if seed is None else signs
        moved = X[which] + step * BOX / LEVELS
        X[which] = moved.clamp(data.X[which] - BOX, data.X[which] + BOX).clamp(0, 1)
        F[which] = data.features(X[which]).numpy()
        own = refit(F, data.y.numpy(), own)
        if own.predict(query[0])[0] != query[1][0]:
            break
    assert float((X - data.X).abs().max()) <= BOX + 1e-6
    return bool(own.predict(query[0])[0] != query[1][0])


def run(size: str, folder: Path) -> Result:
    """Adversarial training pictures (Koh & Liang 2017, section 5.2)."""
    name, each, held, *others = SIZES[size]
    tests, counts, steps = RUNS[size]
    data = shoes(name, each, held, *others, folder)
    F, Ft, y, yt = data.features(data.X).numpy(), data.features(data.Xt).numpy(), data.y.numpy(), data.yt.numpy()
    top = refit(F, y)
    sure = top.predict_proba(Ft)[np.arange(len(yt)), yt]
    right = np.argsort(np.where(sure > 0.5, sure, 2))[: (sure > 0.5).sum() // 4]  # the quarter it is least sure of
    chosen = np.sort(np.random.default_rng(0).permutation(right)[:tests])
    queries = [(Ft[place : place + 1], yt[place : place + 1]) for place in chosen]
    result = Result(
        "Figure 5: attacking the training set",
        "Inception's top layer on dogs and fish, pixels moved by less than half a grey level of 255: one training picture turns 57 % of 591 test pictures, two turn 77 %, ten turn all but one.",
        f"{name}, {each} + {each} training pictures, pixels within {BOX * 255:g}/255, at most {steps} steps, {len(queries)} test pictures of the quarter that is read rightly but least surely",
    )
    turned = {
        count: np.mean([attack(data, F, top, query, count, steps, None) for query in queries]) for count in counts
    }
    chance = np.mean([attack(data, F, top, query, counts[-1], steps, 1 + k) for k, query in enumerate(queries)])
    paper = {1: "0.57", 2: "0.77", 10: "0.998"}
    for before, count in zip((None, *counts), counts, strict=False):
        result.add(f"turned by {count} picture{'s' * (count > 1)}", turned[count], paper.get(count, ""), turned[before] if before else 0.3 * (size == "full"))  # fmt: skip
    result.add(f"turned by {counts[-1]} pictures, random signs", chance, "", most=0)
    result.figure, axes = plt.subplots(figsize=(4.4, 3.4))
    axes.plot(counts, [turned[count] for count in counts], marker="o", label="I_pert,loss")
    axes.plot(counts[-1:], [chance], marker="x", linestyle="", color="#d55e00", label="random signs")
    axes.set(xlabel="training pictures changed", ylabel="test pictures turned", ylim=(-0.03, 1.03))
    axes.legend(frameon=False)
    result.why = (
        f"A proposal: the paper's pictures have 268,203 numbers and Inception, ours {data.X[0].numel()} and a small network of our own. A sum of signs grows with the "
        f"number of pixels, so the box is {BOX * 255:g} grey levels where the paper's is half of one, and the test pictures are those near the boundary."
    )
    return result


if __name__ == "__main__":
    report("a9_training_set_attack", run)
