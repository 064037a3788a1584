"""The closed forms, written out in NumPy as a statistician would for this one model."""

from __future__ import annotations

import sys

import numpy as np
from lines.problem import load
from measured import Row


def shared(kind: str, line) -> tuple:
    """Residuals, curvatures, the design and its product with the inverse Hessian of the mean loss."""
    A = np.column_stack([line.X, np.ones(len(line.X))])
    eta = A @ line.theta
    p = 1 / (1 + np.exp(-eta)) if kind == "logit" else eta
    v = p * (1 - p) if kind == "logit" else np.ones(len(A))
    AH = A @ np.linalg.inv(A.T @ (v[:, None] * A) / len(A))
    return A, p - line.y, v, AH


def parameters(kind: str, line) -> np.ndarray:
    """I_up,params, (n, p)."""
    _, residual, _, AH = shared(kind, line)
    return -(residual[:, None] * AH)


def drop(kind: str, line) -> np.ndarray:
    """The change of every query's loss without each point, leverage-corrected, (m, n)."""
    A, residual, v, AH = shared(kind, line)
    h = v * np.einsum("ij,ij->i", AH, A) / len(A)
    At = np.column_stack([line.Xt, np.ones(len(line.Xt))])
    eta, y = (At @ line.theta)[:, None], line.yt[:, None]
    moved = eta + (At @ AH.T) * (residual / len(A) / (1 - h))

    def loss(outputs: np.ndarray) -> np.ndarray:
        return np.logaddexp(0, outputs) - y * outputs if kind == "logit" else 0.5 * (outputs - y) ** 2

    return loss(moved) - loss(eta)


def main(name: str) -> None:
    """Each question on its own, the faster of two passes: the first one also touches memory for the first time."""
    kind, row = name.split("-")[0], Row(name)
    line = load(kind)
    for _ in range(2):
        with row.phase("parameters"):
            moved = parameters(kind, line)
        with row.phase("drop"):
            changes = drop(kind, line)
    row.finish(np.vstack([changes, moved.T]))


if __name__ == "__main__":
    main(sys.argv[1])
