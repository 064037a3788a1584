"""The data of the experiments: scikit-learn's digits at small size, MNIST and FashionMNIST (`make data`) at full size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from experiment import ROOT
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import upweight as uw

DECAY = 0.01
"""The paper's weight decay of logistic regression."""


def archive(name: str) -> dict[str, np.ndarray]:
    """An archive that `make data` fetches."""
    path = ROOT / "data" / f"{name}.npz"
    if not path.exists():
        raise SystemExit(f"{path} is not there. Expected what tools/fetch_data.py fetches; run `make data`.")
    return dict(np.load(path))


def pictures(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, pixels) in [0, 1] and labels (n,) of 'digits', 'mnist' or 'fashion', shuffled once and for all."""
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        X = X / 16
    else:
        held = archive(name)
        X, y = held["images"].astype(np.float64) / 255, held["labels"].astype(int)
        if name == "fashion":  # its own test set stays apart
            X, y = X[:60_000], y[:60_000]
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], y[order]


def pair(name: str, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """The pictures of two classes, labelled 0 and 1."""
    X, y = pictures(name)
    kept = (y == first) | (y == second)
    return X[kept], (y[kept] == second).astype(int)


@dataclass
class Softmax:
    """Ten-class logistic regression without intercept, as in the paper's section 4.1, and one test point it gets wrong."""

    X: np.ndarray
    y: np.ndarray
    query: tuple[np.ndarray, np.ndarray]
    model: torch.nn.Linear

    def study(self, solver: str = "cholesky") -> uw.Study:
        """Mean loss and weight decay: a point that leaves takes its share of the decay along, as in the paper's code."""
        return uw.Study(
            self.model, (self.X, self.y), loss="cross_entropy", penalty=uw.L2(DECAY), solver=solver, memory="6GB"
        )


def softmax(name: str, count: int, folder: Path) -> Softmax:
    """Fitted on the first ``count`` pictures; the coefficients are kept in the folder."""
    X, y = pictures(name)
    kept = folder / f"{name}-{count}.npy"
    if not kept.exists():
        fitted = LogisticRegression(C=1 / (count * DECAY), fit_intercept=False, tol=1e-8, max_iter=5000)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(kept, fitted.fit(X[:count], y[:count]).coef_)
    weight = np.load(kept)
    model = torch.nn.Linear(X.shape[1], 10, bias=False, dtype=torch.float64).eval()
    model.weight.data = torch.as_tensor(weight)
    wrong = count + np.flatnonzero((X[count:] @ weight.T).argmax(1) != y[count:])
    return Softmax(X[:count], y[:count], (X[wrong[:1]], y[wrong[:1]]), model)
