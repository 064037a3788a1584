"""Figure 3: influence of a hinge loss, whose corner has no second derivative, smoothed over a temperature t."""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from experiment import Result, report, scatter
from pictures import DECAY, pair
from sklearn.svm import LinearSVC

import upweight as uw
from upweight.evaluate import loo_agreement

SIZES = {"small": ("digits", 1, 8, 300, 40), "full": ("mnist", 1, 7, 1_700, 100)}
"""Data, the two digits, training points, and how many are really left out."""
TEMPERATURES = {0.0: "0.632, 20 times too large", 0.001: "0.95", 0.1: "0.91"}
CORNER = 1e-9
"""In place of t = 0 for the gradients; the curvature there is that of the weight decay alone."""


def fit(X: np.ndarray, y: np.ndarray) -> LinearSVC:
    """Mean hinge loss and weight decay, without intercept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps; the tolerance is beyond what anyone needs
        return LinearSVC(loss="hinge", C=1 / (len(y) * DECAY), fit_intercept=False, tol=1e-8, max_iter=200_000).fit(
            X, y
        )


def hinge(model: LinearSVC, X: np.ndarray, y: np.ndarray) -> float:
    """The hinge loss of one point."""
    return float(np.maximum(0, 1 - (2 * y - 1) * model.decision_function(X))[0])


def run(size: str, folder: Path) -> Result:
    """Non-differentiable losses (Koh & Liang 2017, section 4.3)."""
    name, first, second, count, refits = SIZES[size]
    X, y = pair(name, first, second)
    model = fit(X[:count], y[:count])
    margins = (2 * y[count:] - 1) * model.decision_function(X[count:])
    place = count + int(np.argmin(np.where(margins < 1, margins, np.inf)))
    query = (X[place : place + 1], y[place : place + 1])
    scores = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", uw.errors.NotStationaryWarning)  # of the smoothed loss, at the hinge's weights
        for t in TEMPERATURES:
            study = uw.from_sklearn(model, X[:count], y[:count], protocol="fixed_mean", smoothing=max(t, CORNER))
            if t:
                scores[t] = study.drop(query, order="first").values
            else:
                T, C = (uw.rows(study.objective, data).dense() for data in ((query[0], 2 * query[1] - 1), None))
                scores[t] = (T @ (C + DECAY * study.objective.theta).T / DECAY / count).numpy()
    top = np.argsort(-np.abs(scores[0.0][0]))[:refits]
    kept, before = folder / f"{count}.npy", hinge(model, *query)
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(kept, [hinge(fit(np.delete(X[:count], i, 0), np.delete(y[:count], i)), *query) - before for i in top])
    actual = np.load(kept)
    result = Result(
        "Figure 3: the hinge, smoothed",
        "Linear SVM on MNIST 1 and 7, n about 13,000, weight decay 0.01; the 100 points of largest influence at t = 0.",
        f"{name} {first} and {second}, n = {count:,}, {refits} refits of LinearSVC",
    )
    result.figure, panels = plt.subplots(1, 3, figsize=(11, 3.4))
    found = {t: loo_agreement(own[:, top], actual[None]) for t, own in scores.items()}
    for (t, paper), axes in zip(TEMPERATURES.items(), panels, strict=True):
        result.add(f"Pearson, t = {t:g}", found[t].pearson.value, paper, {0.001: 0.8}.get(t))
        result.add(f"slope, t = {t:g}", found[t].slope.value, "", {0.001: 0.9}.get(t), {0.001: 1.2, 0.0: 0.05}.get(t))
        scatter(axes, scores[t][0, top], actual, f"t = {t:g}, Pearson {found[t].pearson.value:.2f}")
    result.add(
        "Pearson at t = 0.001 above that at t = 0", found[0.001].pearson.value - found[0.0].pearson.value, "0.32", 0.3
    )
    result.why = "One test point, the one deepest inside the margin, as in the paper; another gives other numbers in the second digit."
    return result


if __name__ == "__main__":
    report("a6_smoothed_hinge", run)
