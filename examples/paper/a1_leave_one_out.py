"""Figure 2, left: predicted against actual change of a wrongly classified test point's loss, one training point left out."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from experiment import Result, report, scatter
from pictures import softmax

from upweight.evaluate import Refits, loo_agreement

SIZES = {"small": [("digits", 1_400, 30)], "full": [("mnist", 9_000, 500), ("fashion", 55_000, 100)]}
"""Data, training points, and how many points are really left out: those of the largest predicted influence."""


def run(size: str, folder: Path) -> Result:
    """Leave-one-out retraining of logistic regression (Koh & Liang 2017, section 4.1)."""
    result = Result(
        "Figure 2, left: leave-one-out retraining of logistic regression",
        "10-class logistic regression on MNIST, n = 55,000, weight decay 0.01, the 500 points of largest influence on one "
        "wrongly classified test point: predicted and actual changes 'matched closely'; no number is given.",
        "; ".join(f"{name}, n = {count:,}, {refits} refits" for name, count, refits in SIZES[size]),
    )
    result.figure, panels = plt.subplots(1, len(SIZES[size]), figsize=(4.2 * len(SIZES[size]), 3.8), squeeze=False)
    for (name, count, refits), axes in zip(SIZES[size], panels[0], strict=True):
        problem = softmax(name, count, folder)
        study = problem.study()
        first = study.drop(problem.query, order="first")
        top = np.argsort(-np.abs(first.values[0]))[:refits]
        newton = study.drop(problem.query, which=top, order="newton")
        actual = Refits(study, folder=folder / name).drop(problem.query, which=top).effects
        if size == "full":  # conjugate gradients at the same size, without p × p numbers
            iterated = problem.study("block_cg").drop(problem.query, order="first")
            agreed = np.corrcoef(iterated.values[0], first.values[0])[0, 1]
            result.add(f"{name}: Pearson of CG's scores with exact ones, all {count:,}", agreed, least=0.9999)
        plain = loo_agreement(first.values[:, top], actual.values)
        exact = loo_agreement(newton.values, actual.values)
        result.add(f"{name}: Pearson, first order", plain.pearson.value, "on the line", 0.99)
        result.add(f"{name}: slope, first order", plain.slope.value, "on the line", 0.95, 1.05)
        result.add(f"{name}: Pearson, exact Newton step", exact.pearson.value, "", 0.9999)
        result.add(f"{name}: slope, exact Newton step", exact.slope.value)
        scatter(
            axes, first.values[0, top], actual.values[0], f"{name}, n = {count:,}, Pearson {plain.pearson.value:.4f}"
        )
    result.why = (
        "Our MNIST is the 10,000 digits that a registry has, so the paper's n is reached with FashionMNIST. Refits are Newton's "
        "method from the fitted parameters to a gradient of 1e-11 of a typical one, where the paper's are L-BFGS to 1e-8. "
        "The exact Newton step is the one of appendix A before its o(ε) terms are dropped, with the change of the loss evaluated there."
    )
    return result


if __name__ == "__main__":
    report("a1_leave_one_out", run)
