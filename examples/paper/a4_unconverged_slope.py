"""Figure 2, right: why retraining moves a network that has not converged by more than the damped influence says."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from experiment import Result, report, scatter
from nearby import descended, quadratic
from network import DAMPING, DECAY, Unconverged, unconverged
from onward import onward

import upweight as uw

RUNS = {"small": (8, (50, 200), 200), "full": (10, (200, 400, 1_000), 400)}
"""Points left out, steps after which retraining is looked at, and the one at which dampings are; the network is the small one at either size."""
DAMPINGS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)

WHY = (
    "Two optimisers from the same parameters. Gradient descent, at a rate of 1/(largest eigenvalue), does what the quadratic says, in size as well as in order, once each point's own curvature is taken out of the Hessian; with that "
    "curvature left in, whether the filter is that of the damping or that of the very steps, the slope is above 2. With Adam it is larger still: the control alone goes many times as far from where training stopped, and "
    "runs with and without a point end many times as far apart, so a slope against Adam tells as much of its steps as of the influence. Damping has a part in it and not the largest: most eigenvalues lie below it, but directions below it carry a "
    "small share of what really changed; the slope of the Gauss-Newton matrix falls as λ falls and settles far above 1, where the weight decay takes over, and its correlation falls with it. The slope does not grow steadily with the steps, and "
    "after most of them the correlation is lost. Two expectations were written down before anything was measured, that the slope grows with the steps, and that for descent the filter of the steps, with the whole Hessian, suffices; neither was kept."
)


def agree(result: Result, what: str, predicted: np.ndarray, actual: np.ndarray, **kept: Any) -> float:
    """Two rows, slope and Pearson of actual on predicted changes; the slope."""
    slope = float(np.polyfit(predicted, actual, 1)[0])
    result.add(f"slope, {what}", slope, **kept)
    result.add(f"Pearson, {what}", np.corrcoef(predicted, actual)[0, 1])
    return slope


def predictions(found: Unconverged) -> dict[str, np.ndarray]:
    """Predicted drops (n,) by name: the exact Hessian at the paper's damping, and the Gauss-Newton matrix at others, whose spectrum has no end below zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is no minimum is the point, and a small damping another
        told = {f"Hessian, λ = {DAMPING:g}": found.study.drop(found.query, order="first")}
        told[f"Hessian, λ = {DAMPING:g}, leverage-corrected"] = found.study.drop(found.query, order="newton")
        for damping in DAMPINGS:
            net = found.training.model(found.training.start)
            study = uw.Study(net, found.training.data, loss="cross_entropy", penalty=uw.L2(DECAY), curvature="ggn", damping=damping)  # fmt: skip
            told[f"Gauss-Newton, λ = {damping:g}"] = study.drop(found.query, order="first")
    return {name: effects.values[0] for name, effects in told.items()}


def run(size: str, folder: Path) -> Result:
    """The slope against damping, steps and optimiser (Koh & Liang 2017, section 4.2)."""
    count, steps, at = RUNS[size]
    found = unconverged("small", folder, 10, "hessian")
    told = predictions(found)
    usual = next(iter(told))
    top = np.argsort(-np.abs(told[usual]))[:count]
    near, place = quadratic(found, top), steps.index(at)
    result = Result(
        "Figure 2, right, continued: what the slope depends on",
        "Only the correlation is given, at damping 0.01, after 30,000 steps on from a training of 500,000.",
        f"the small network of a4_unconverged_network.py, {len(near.values)} parameters; {count} points left out one at a time, training continued on whole batches, less a control with all points",
    )
    result.add("smallest eigenvalue of the Hessian, weight decay included", near.values[0])
    result.add("largest", near.values[-1])
    result.add(f"share of the eigenvalues below the damping of {DAMPING:g}", np.mean(near.values < DAMPING))
    adam = onward(found, found.training.optimizer, steps, top, folder / "adam")
    grown = [agree(result, f"{usual}, after {k:,} steps of Adam", told[usual][top], one) for k, one in zip(steps, adam.changes, strict=True)]  # fmt: skip
    result.add("slope after most steps over slope after fewest", grown[-1] / grown[0], "", least=1)
    rest = [agree(result, f"{name}, after {at:,} steps of Adam", one[top], adam.changes[place]) for name, one in told.items() if name != usual]  # fmt: skip
    result.add(f"slope at λ = {DAMPINGS[-1]:g} over slope at λ = {DAMPINGS[0]:g}", rest[-1] / rest[1], "", most=1)
    for k, one in zip(steps, adam.moved, strict=True):
        result.add(f"share of the change that lies along eigenvalues below {DAMPING:g}, after {k:,} steps of Adam", near.share(one @ near.vectors, DAMPING))  # fmt: skip
    result.add(f"the same share as predicted, {usual}", near.share(near.pulls / (near.values + DAMPING), DAMPING))
    rate = 1 / near.values[-1]
    descent = functools.partial(torch.optim.SGD, lr=rate, weight_decay=DECAY)
    by_descent = onward(found, descent, (at,), top, folder / "descent")
    went = by_descent.changes[0]
    what = f"after {at:,} steps of gradient descent"
    agree(result, f"{usual}, {what}", told[usual][top], went)
    own = near.change(near.descended(rate, at))
    agree(result, f"Hessian, the filter of these steps in place of λ, {what}", own, went, least=0.8, most=1.25)
    quadratic_changes = descended(found, top, rate, at)
    agree(result, f"the same descent on the quadratic, without the point's own curvature, {what}", quadratic_changes, went)  # fmt: skip
    for name, one, k in (("Adam", adam, place), ("gradient descent", by_descent, 0)):
        agree(result, f"∇L of the query times how far the parameters really went, {at:,} steps of {name}", one.moved[k] @ near.vectors @ near.query, one.changes[k])  # fmt: skip
        result.add(f"mean distance between parameters with and without a point, {at:,} steps of {name}", np.linalg.norm(one.moved[k], axis=1).mean())  # fmt: skip
        result.add(f"distance of the control from where training stopped, {at:,} steps of {name}", np.linalg.norm(one.control[k]))  # fmt: skip
    result.figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    scatter(panels[0], told[usual][top], adam.changes[place], f"{usual}; {at:,} steps of Adam")
    scatter(panels[1], quadratic_changes, went, f"descent on the quadratic; {at:,} steps of descent")
    result.why = WHY
    return result


if __name__ == "__main__":
    report("a4_unconverged_slope", run)
