"""Appendix B: away from a minimum one Newton step is a constant, the same for every point, and the point's influence."""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from experiment import Result, report, scatter
from network import DAMPING, SIZES, unconverged
from scipy.stats import spearmanr

import upweight as uw

POINTS = {"small": 10, "full": 50}
"""How many points; the network is the small one at either size, whose exact Hessian is a matter of seconds."""


def run(size: str, folder: Path) -> Result:
    """Influence at parameters that are no minimum (Koh & Liang 2017, appendix B)."""
    points = POINTS[size]
    found = unconverged("small", folder, 10, "hessian")
    name, count, _, steps, _ = SIZES["small"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", uw.errors.NotStationaryWarning)
        predicted = found.study.drop(found.query, order="first").values[0]
        iterate = found.study.drop(found.query, order="newton", estimand="newton").values[0]
    chosen = np.argsort(-np.abs(predicted))[:: max(1, count // points)][:points]  # a spread over the ranks
    step = found.study.newton_step(chosen, epsilon=-1 / count)
    slope = uw.rows(found.study.objective, found.query).dense().double().numpy()[0]  # ∇L(z_test)
    exact, constant, own = ((part @ slope) for part in (step.step - step.constant, step.constant, step.contribution))
    result = Result(
        "Appendix B: influence away from a minimum",
        "A damped Newton step on the training set without z ends at −H⁻¹g + ε·I_up,params(z) from where it began: a constant, the "
        "same for every z, and the influence of z. No experiment.",
        f"{name}, n = {count:,}, {steps:,} steps of Adam, {found.study.objective.space.size:,} parameters, exact Hessian with damping {DAMPING:g}, {points} points",
    )
    trust = found.study.trust()
    result.add("Pearson of −I_up,loss/n with [Newton step without z] − [Newton step]", np.corrcoef(predicted[chosen], exact)[0, 1], "", 0.999)  # fmt: skip
    result.add("slope", np.polyfit(predicted[chosen], exact, 1)[0])
    keeping = "order='newton', estimand='newton', which keep the point's own curvature"
    result.add(f"Pearson with {keeping}", np.corrcoef(iterate[chosen], exact)[0, 1], "", 0.999)
    result.add("slope with them", np.polyfit(iterate[chosen], exact, 1)[0])
    result.add("largest |study.drop + ∇Lᵀ contribution of newton_step|, relative", np.abs(predicted[chosen] - own).max() / np.abs(own).max(), "0", most=1e-3)  # fmt: skip
    result.add("Spearman of the ranking with and without the constant", spearmanr(own, own + constant).statistic, "1", 1 - 1e-12)  # fmt: skip
    result.add("the constant's own effect in units of the largest point's", abs(constant[0]) / np.abs(own).max())
    result.figure, axes = plt.subplots(figsize=(4.2, 3.8))
    scatter(axes, predicted[chosen], exact, "one damped Newton step from parameters that are no minimum")
    result.why = f"What separates the two is the point's own curvature, along the pending step and times ε: O(ε‖g‖ + ε²), and ε is 1/{count} here. The study says of itself: {'; '.join([str(trust.stationarity), *trust.concerns])}."
    return result


if __name__ == "__main__":
    report("a5_appendix_b", run)
