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
REFITS = 10
"""Points of the other class, said to be helpful, that are really left out."""


def machine(root: np.ndarray, y: np.ndarray, tolerance: float) -> LinearSVC:
    """The hinge on rows of the kernel's Cholesky factor, C = 1/(nλ) of all the points whatever is left out."""
    C = 1 / (root.shape[1] * DECAY)
    return LinearSVC(loss="hinge", C=C, fit_intercept=False, tol=tolerance, max_iter=1_000_000).fit(root, y)


def other_class(result: Result, svm: LinearSVC, root: np.ndarray, y: np.ndarray, query: tuple, drop: np.ndarray) -> None:  # fmt: skip
    """Why the machine calls points of the other class helpful: rows without the curvature, about its margin, and of refits."""
    plain = uw.from_sklearn(svm, root, y, smoothing=TEMPERATURE, curvature="identity").drop(query, order="first").values[0]  # fmt: skip
    sign = 2 * y - 1
    slack = 1 - sign * svm.decision_function(root)
    result.add("other class among the 50 most helpful, RBF-SVM without the curvature", ((y != query[1][0]) & helpful(plain)).sum(), "", most=0)  # fmt: skip
    result.add("share of the training points on the margin, where the smoothed hinge bends", np.mean(np.abs(slack) < 5 * TEMPERATURE))  # fmt: skip
    result.add("share inside it or on the wrong side", np.mean(slack > 5 * TEMPERATURE))
    said = np.flatnonzero((y != query[1][0]) & helpful(drop))
    said = said[np.argsort(-drop[said])][:REFITS]
    if len(said):
        toward = 2 * query[1][0] - 1
        whole = toward * machine(root, y, 1e-9).decision_function(query[0])[0]
        without = [toward * machine(np.delete(root, k, 0), np.delete(y, k), 1e-9).decision_function(query[0])[0] for k in said]  # fmt: skip
        result.add(f"of the first {len(said)} of them, share without which the test point's margin really shrinks", np.mean(np.array(without) < whole))  # fmt: skip


def helpful(drop: np.ndarray) -> np.ndarray:
    """Which are the 50 most helpful, those apart that do next to nothing."""
    chosen = np.zeros(len(drop), dtype=bool)
    chosen[np.argsort(-drop)[:50]] = True
    return chosen & (drop > 0.01 * drop.max())


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
        svm = machine(root, y, 1e-6)
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
        hinge = who == "RBF-SVM"
        moved = np.abs(drop) > 1e-12 * np.abs(drop).max()
        rank = spearmanr(np.abs(drop[moved]), distance[moved]).statistic
        result.add(f"Spearman of |influence| and distance, {who}", rank, "falls" if hinge else "none", None if hinge else -0.25, -0.5 if hinge else None)  # fmt: skip
        result.add(f"other class among the 50 most helpful, {who}", (~same & helpful(drop)).sum(), "0" if hinge else "dogs from rank 19 on", None if hinge else 1, 0 if hinge else None)  # fmt: skip
        axes.scatter(distance, -drop, s=6, c=np.where(same, "#0072b2", "#d55e00"), linewidths=0)
        axes.set(title=who, xlabel="distance in pixels (blue: the test picture's class)", ylabel="−change of its loss")
    query = rootless[place : place + 1], yt[place : place + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other_class(result, svm, root, y, query, drops["RBF-SVM"])
    nearness = spearmanr(cdist(deep, deept[place : place + 1])[:, 0], distance).statistic
    result.add("Spearman of distance in the network's features and in pixels", nearness)
    result.why = (
        "A proposal: no registry has the dogs, the fish or Inception. Shoes are far more alike than dogs and fish, and a network of our own that has seen the other eight classes is no ImageNet: distance in its features goes with distance in pixels, as the last row says. "
        "That no point of the other class should help an RBF-SVM holds without the curvature, where influence has the sign of the kernel times that of the labels. With the curvature the points on the margin hold their places, and what is left of the kernel after them can have either sign. Those that were really left out, the ones said to help most, did help: the test point's margin shrank without each."
    )
    return result


if __name__ == "__main__":
    report("a8_two_models", run)
