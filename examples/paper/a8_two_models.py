"""Figure 4: the same test picture explained by a support vector machine on pixels and by a network's features."""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from deep import shoes
from experiment import Result, report
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import upweight as uw

SIZES = {"small": ("digits", 120, 50, 800, 8), "full": ("fashion", 900, 300, 8_000, 4)}
"""Data, training and held-out pictures of each class, pictures of the other classes, and passes over them."""
DECAY, TEMPERATURE = 1e-3, 1e-3


def run(size: str, folder: Path) -> Result:
    """Comparing two models by what moves them (Koh & Liang 2017, section 5.1)."""
    name, each, held, *others = SIZES[size]
    data = shoes(name, each, held, *others, folder)
    X, Xt = (part.flatten(1).double().numpy() for part in (data.X, data.Xt))
    y, yt, n = data.y.numpy(), data.yt.numpy(), 2 * each
    gamma = 1 / np.median(cdist(X, X, "sqeuclidean"))
    root = np.linalg.cholesky(np.exp(-gamma * cdist(X, X, "sqeuclidean")) + 1e-8 * np.eye(n))
    rootless = solve_triangular(root, np.exp(-gamma * cdist(X, Xt, "sqeuclidean")), lower=True).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of liblinear's steps, and of the smoothed hinge at the hinge's own weights
        svm = LinearSVC(loss="hinge", C=1 / (n * DECAY), fit_intercept=False, tol=1e-6, max_iter=50_000).fit(root, y)
        deep, deept = data.features(data.X).numpy(), data.features(data.Xt).numpy()
        top = LogisticRegression(C=1 / (n * DECAY), tol=1e-8, max_iter=5_000).fit(deep, y)
        both = np.flatnonzero((svm.predict(rootless) == yt) & (top.predict(deept) == yt))
        place = both[np.argmin(np.abs(svm.decision_function(rootless)[both]))]  # both are right, the machine only just
        asked = {
            "RBF-SVM": (uw.from_sklearn(svm, root, y, smoothing=TEMPERATURE), rootless),
            "network": (uw.from_sklearn(top, deep, y), deept),
        }
        drops = {who: study.drop((F[place : place + 1], yt[place : place + 1]), order="first").values[0] for who, (study, F) in asked.items()}  # fmt: skip
    result = Result(
        "Figure 4: two models that agree for different reasons",
        "Dogs and fish, 900 + 900 pictures: an RBF-SVM's influence falls with distance and helpful points are of the test point's class; Inception's does not "
        "depend on distance, and dogs are among the most helpful pictures for a fish.",
        f"{name}, {each} + {each} pictures, {held} + {held} held out; accuracy {svm.score(rootless, yt):.3f} (RBF-SVM), {top.score(deept, yt):.3f} (features of a network trained on the other classes)",
    )
    distance = cdist(X, Xt[place : place + 1])[:, 0]
    same = y == yt[place]
    result.figure, panels = plt.subplots(1, 2, figsize=(8.5, 3.6))
    for (who, drop), axes in zip(drops.items(), panels, strict=True):
        machine = who == "RBF-SVM"
        moved = np.abs(drop) > 1e-12 * np.abs(drop).max()
        rank = spearmanr(np.abs(drop[moved]), distance[moved]).statistic
        result.add(f"Spearman of |influence| and distance, {who}", rank, "falls" if machine else "none", None if machine else -0.25, -0.5 if machine else None)  # fmt: skip
        helpful = np.argsort(-drop)[:50]
        helpful = helpful[drop[helpful] > 0.01 * drop.max()]  # not those that do nothing
        result.add(f"other class among the 50 most helpful, {who}", (~same[helpful]).sum(), "0" if machine else "dogs from rank 19 on", None if machine else 1, 0 if machine else None)  # fmt: skip
        axes.scatter(distance, -drop, s=6, c=np.where(same, "#0072b2", "#d55e00"), linewidths=0)
        axes.set(title=who, xlabel="distance in pixels (blue: the test picture's class)", ylabel="−change of its loss")
    result.why = "A proposal: no registry has the dogs, the fish or Inception. Shoes are far more alike than dogs and fish, and a network of our own that has seen the other eight classes is no ImageNet."
    return result


if __name__ == "__main__":
    report("a8_two_models", run)
