"""Groups left out (Koh, Ang, Teo & Liang, NeurIPS 2019): first order ranks them, the Newton step on what remains has their size."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from experiment import Result, report
from pictures import pair
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

import upweight as uw
from upweight.evaluate import Refits
from upweight.evaluate.agreement import slope_of

SIZES = {"small": ("digits", 3, 8, 280, 3), "full": ("fashion", 0, 6, 6_000, 8)}
"""Data, the two classes, training points, and groups of every kind."""
DECAY = 1e-3
SHARES = (0.01, 0.25)


def groups_of(X: np.ndarray, scores: np.ndarray, count: int, rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Random ones, neighbours of one point, clusters, and the most helpful and most harmful; 1 to 25 % of the points."""
    sizes = np.geomspace(*SHARES, count) * len(X)
    found: dict[str, list[np.ndarray]] = {
        kind: [] for kind in ("random", "neighbours", "cluster", "helpful", "harmful")
    }
    owners = KMeans(count, n_init=1, random_state=0).fit_predict(X)
    for own, size in enumerate(np.ceil(sizes).astype(int)):
        near = np.argsort(((X - X[rng.integers(len(X))]) ** 2).sum(1))
        members = np.flatnonzero(owners == own)
        found["random"].append(rng.permutation(len(X))[:size])
        found["neighbours"].append(near[:size])
        found["cluster"].append(rng.permutation(members)[: int(SHARES[1] * len(X))])
        top = np.argsort(-scores)[: max(2 * size, 10)]
        found["helpful"].append(rng.permutation(top)[:size])
        found["harmful"].append(rng.permutation(np.argsort(scores)[: max(2 * size, 10)])[:size])
    return found


def run(size: str, folder: Path) -> Result:
    """Group effects of logistic regression (Koh et al. 2019)."""
    name, first, second, count, each = SIZES[size]
    X, y = pair(name, first, second)
    Xt, yt, X, y = X[count:], y[count:], X[:count], y[:count]
    model = LogisticRegression(C=1 / (count * DECAY), tol=1e-8, max_iter=10_000).fit(X, y)
    study = uw.from_sklearn(model, X, y, protocol="fixed_mean")
    query = (Xt, yt)
    scores = study.drop(query, aggregate="mean", order="first").values[0]
    kinds = groups_of(X, scores, each, np.random.default_rng(0))
    groups = [members.tolist() for own in kinds.values() for members in own]
    owner = np.repeat(list(kinds), each)
    asked = {order: study.drop_group(groups, query, aggregate="mean", order=order).values[0] for order in ("first", "newton", "two_newton")}  # fmt: skip
    actual = Refits(study, folder=folder).drop_group(groups, query, aggregate="mean").effects.values[0]
    result = Result(
        "Groups of 1 to 25 % (Koh et al. 2019)",
        "Logistic regression on five data sets, groups of up to 25 %: Spearman 0.89 to 0.99 between predicted and actual effects, whose size first order "
        "underestimates; one Newton step has the size right.",
        f"{name} {first} and {second}, n = {count:,}, weight decay {DECAY:g}, {len(groups)} groups of five kinds, the mean loss of {len(yt):,} test points",
    )
    result.figure, panels = plt.subplots(1, 3, figsize=(12, 3.6))
    for (order, own), axes in zip(asked.items(), panels, strict=True):
        result.add(f"Spearman, order={order!r}", spearmanr(own, actual).statistic, "0.89–0.99" if order == "first" else "", 0.9)  # fmt: skip
        result.add(f"slope, order={order!r}", slope_of(own, actual), {"first": "above 1", "newton": "1"}.get(order, ""))
        for kind in kinds:
            axes.scatter(own[owner == kind], actual[owner == kind], s=10, label=kind)
        axes.axline((0, 0), slope=1, color="#888888", linewidth=1)
        axes.set(title=f"order={order!r}", xlabel="predicted change of the mean test loss", ylabel="after refitting")
    panels[0].legend(frameon=False, fontsize=7)
    for kind in kinds:
        result.add(f"slope of the Newton step, {kind}", slope_of(asked["newton"][owner == kind], actual[owner == kind]))
    result.why = "One data set here, and the mean loss of a test set as the measurement. 'two_newton' is what the library takes by default for linear models: a second step from where the first one landed."
    return result


if __name__ == "__main__":
    report("a10_groups", run)
