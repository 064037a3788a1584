"""Figure 1: what each factor of influence is for: the training loss, and the curvature."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from experiment import Result, report
from pictures import DECAY, pair
from sklearn.linear_model import LogisticRegression

import upweight as uw
from upweight.evaluate import Refits

SIZES = {"small": ("digits", 1, 8, 300, 100), "full": ("mnist", 1, 7, 1_700, 400)}
"""Data, the two digits, training points, and how many are really left out."""


def run(size: str, folder: Path) -> Result:
    """The components of influence (Koh & Liang 2017, section 2.3)."""
    name, first, second, count, refits = SIZES[size]
    X, y = pair(name, first, second)
    Xt, yt, X, y = X[count:], y[count:], X[:count], y[:count]
    model = LogisticRegression(C=1 / (count * DECAY), fit_intercept=False, tol=1e-10, max_iter=5_000).fit(X, y)
    study = uw.from_sklearn(model, X, y, protocol="fixed_mean")
    place = int(np.argmax(np.abs(yt - model.predict_proba(Xt)[:, 1])))  # the test point it does worst on
    query = (Xt[place : place + 1], yt[place : place + 1])

    T, C = uw.rows(study.objective, query).dense(), uw.rows(study.objective).dense()  # fmt: skip
    Hinv = uw.inverse(uw.curvature.hessian(study.objective))
    bare = C / torch.as_tensor(np.abs(y - model.predict_proba(X)[:, 1]))[:, None]  # ∓x: the training loss left out
    scores = {
        "influence": uw.effect(T, Hinv, C),
        "without the training loss": uw.effect(T, Hinv, bare),
        "without the curvature": -(T @ C.T),
        "without either": -(T @ bare.T),
    }
    chosen = np.random.default_rng(0).permutation(count)[:refits]
    actual = Refits(study, folder=folder).drop(query, which=chosen).effects.values[0]
    result = Result(
        "Figure 1: the components of influence",
        "Logistic regression on MNIST 1 and 7. Without the training loss the influence of points with little loss is overestimated; without H every point of the "
        "test point's class looks helpful, while with it some of its own class are harmful. Qualitative.",
        f"{name} {first} and {second}, n = {count:,}, {refits} random points really left out",
    )
    result.figure, panels = plt.subplots(1, 4, figsize=(14, 3.2))
    found = {}
    for (words, own), axes in zip(scores.items(), panels, strict=True):
        drops = -own.numpy()[0] / count
        found[words] = float(np.corrcoef(drops[chosen], actual)[0, 1])
        most = None if words == "influence" else found["influence"] - 1e-3
        result.add(f"Pearson with refits, {words}", found[words], "", 0.98 if words == "influence" else None, most)
        axes.scatter(drops[chosen], actual, s=8, c=np.where(y[chosen] == query[1], "#0072b2", "#d55e00"), linewidths=0)
        axes.set(title=f"{words}: {found[words]:.2f}", xlabel="score (blue: the test point's class)")
        axes.tick_params(labelsize=6)
    panels[0].set_ylabel("change after refitting")
    order = np.argsort(study.drop(query, order="first").values[0])  # harmful first
    same = [int((y[order[:10]] == query[1]).sum()), int((y[np.argsort(-scores["without the curvature"].numpy()[0])[:10]] == query[1]).sum())]  # fmt: skip
    result.add("own class among the 10 most harmful", same[0], "some", 1)
    result.add("own class among the 10 most harmful, without the curvature", same[1], "none", most=0)
    result.why = "The test point is the one of largest loss. The paper's figure compares scores with one another; here all four are held against refits."
    return result


if __name__ == "__main__":
    report("a7_ablations", run)
