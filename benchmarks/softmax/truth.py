"""The truth: Newton's method to rounding, the Hessian as weighted Grams, Cholesky. NumPy and SciPy, nothing of upweight."""

from __future__ import annotations

import numpy as np
from measured import DATA, Row
from scipy.linalg import cho_factor, cho_solve
from softmax.problem import CLASSES, FITTED, PENALTY, TRAIN, load

TOLERANCE = 1e-10
"""‖∇Q‖ at which the fit is done."""


def probabilities(A: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Softmax of A θᵀ for θ (10, 785)."""
    outputs = A @ theta.T
    shifted = np.exp(outputs - outputs.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def hessian(A: np.ndarray, P: np.ndarray) -> np.ndarray:
    """mean Λ ⊗ aaᵀ + λI, class by class."""
    i = A.shape[1]
    H = np.zeros((CLASSES, i, CLASSES, i))
    for r in range(CLASSES):
        for c in range(r + 1):
            weight = P[:, r] * ((r == c) - P[:, c]) / len(A)
            H[r, :, c, :] = A.T @ (weight[:, None] * A)
            H[c, :, r, :] = H[r, :, c, :].T
    H = H.reshape(CLASSES * i, CLASSES * i)
    H[np.diag_indices_from(H)] += PENALTY
    return H


def gradient(A: np.ndarray, y: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """∇Q, (10, 785)."""
    return (probabilities(A, theta) - np.eye(CLASSES)[y]).T @ A / len(A) + PENALTY * theta


def fit(A: np.ndarray, y: np.ndarray) -> np.ndarray:
    """L-BFGS, then one chord Newton method with the Hessian it arrives at."""
    from scipy.optimize import minimize

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = flat.reshape(CLASSES, -1)
        P = probabilities(A, theta)
        value = -np.log(P[np.arange(len(y)), y]).mean() + PENALTY / 2 * (theta**2).sum()
        return value, gradient(A, y, theta).ravel()

    start = np.zeros(CLASSES * A.shape[1])
    theta = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-7}).x
    theta = theta.reshape(CLASSES, -1)
    factor = cho_factor(hessian(A, probabilities(A, theta)))
    while np.linalg.norm(g := gradient(A, y, theta)) > TOLERANCE:
        theta = theta - cho_solve(factor, g.ravel()).reshape(theta.shape)
    return theta


def main() -> None:
    """Fit once, then the drop of every query's loss to first order: gᵢᵀH⁻¹∇φ / n."""
    digits = np.load(DATA / "mnist.npz")
    order = np.random.default_rng(0).permutation(len(digits["labels"]))
    X, y = digits["images"][order][:TRAIN] / 255.0, digits["labels"][order][:TRAIN].astype(int)
    if not FITTED.exists():
        theta = fit(np.column_stack([X, np.ones(TRAIN)]), y)
        np.savez(FITTED, weight=theta[:, :-1], bias=theta[:, -1])
    row, problem = Row("softmax-truth"), load()
    A, At = (np.column_stack([x, np.ones(len(x))]) for x in (problem.X, problem.Xt))
    theta = np.column_stack([problem.weight, problem.bias])
    row.notes = f"‖∇Q‖ {np.linalg.norm(gradient(A, problem.y, theta)):.0e}"
    with row.phase("fit"):
        P, Pt = probabilities(A, theta), probabilities(At, theta)
        factor = cho_factor(hessian(A, P), overwrite_a=True)
    with row.phase("score"):
        T = ((Pt - np.eye(CLASSES)[problem.yt])[:, :, None] * At[:, None, :]).reshape(len(At), -1)
        solved = cho_solve(factor, T.T).T.reshape(len(At), CLASSES, -1)
        D = P - np.eye(CLASSES)[problem.y]
        scores = np.einsum("qon,no->qn", solved @ A.T, D) / len(A)
    row.finish(scores)


if __name__ == "__main__":
    main()
