"""Figure 2, left: predicted against actual change of a wrongly classified test point's loss, one training point left out."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from experiment import Result, report, scatter
from pictures import softmax

from upweight.evaluate import Refits, loo_agreement

SIZES = {"small": ("digits", 1_400, 30), "full": ("mnist", 9_000, 100)}
"""Data, training points, and how many points are really left out: those of the largest predicted influence."""


def leave_out(name: str, count: int, refits: int, folder: Path) -> Result:
    """Predict, leave out, refit and compare on one data set."""
    result = Result(
        f"Figure 2, left: leave-one-out retraining of logistic regression, {name}",
        "10-class logistic regression on MNIST, n = 55,000, weight decay 0.01, the 500 points of largest influence on one "
        "wrongly classified test point: predicted and actual changes 'matched closely'; no number is given.",
        f"{name}, n = {count:,}, {refits} refits",
    )
    problem = softmax(name, count, folder)
    study = problem.study()
    first = study.drop(problem.query, order="first")
    top = np.argsort(-np.abs(first.values[0]))[:refits]
    iterated = problem.study("block_cg").drop(problem.query, order="first")  # without p × p numbers
    agreed = np.corrcoef(iterated.values[0], first.values[0])[0, 1]
    result.add(f"Pearson of conjugate gradients' scores with exact ones, all {count:,}", agreed, "", 0.9999)
    newton = study.drop(problem.query, which=top, order="newton")
    actual = Refits(study, folder=folder / name).drop(problem.query, which=top).effects
    plain = loo_agreement(first.values[:, top], actual.values)
    exact = loo_agreement(newton.values, actual.values)
    result.add("Pearson, first order", plain.pearson.value, "on the line", 0.99)
    result.add("slope, first order", plain.slope.value, "on the line", 0.95, 1.05)
    result.add("Pearson, exact Newton step", exact.pearson.value, "", 0.9999)
    result.add("slope, exact Newton step", exact.slope.value)
    result.figure, axes = plt.subplots(figsize=(4.2, 3.8))
    scatter(axes, first.values[0, top], actual.values[0], f"{name}, n = {count:,}, Pearson {plain.pearson.value:.4f}")
    result.why = (
        "Our MNIST is the 10,000 digits that a registry has; the paper's n is reached with FashionMNIST. Refits are Newton's "
        "method from the fitted parameters to a gradient of 1e-11 of a typical one, where the paper's are L-BFGS to 1e-8. "
        "The exact Newton step is that of appendix A before its o(ε) terms are dropped, with the loss evaluated where it ends. "
        "First order misses the factor 1/(1 − leverage), which is what its slope above 1 is; the Newton step has it."
    )
    return result


def run(size: str, folder: Path) -> Result:
    """Leave-one-out retraining of logistic regression (Koh & Liang 2017, section 4.1)."""
    return leave_out(*SIZES[size], folder)


if __name__ == "__main__":
    report("a1_leave_one_out", run)
