"""Figure 2, middle: the stochastic estimate (LiSSA), one example a step, and what a scale that is too small does."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from experiment import Result, report
from pictures import DECAY, softmax

import upweight as uw
from upweight.linop import LinearOperator
from upweight.solve import Neumann

SIZES = {"small": ("digits", 1_400, 10, 2_000, 1), "full": ("mnist", 9_000, 1, 5_000, 10)}
"""Data, training points, examples a step, steps, and series that are averaged."""


class Drawn(LinearOperator):
    """V ↦ V H of a few examples of softmax regression: Σ (diag π − ππᵀ) V a ⊗ a / b + λV."""

    def __init__(self, inputs: torch.Tensor, weight: torch.Tensor) -> None:
        self.inputs, self.chances = inputs, (inputs @ weight.T).softmax(1)  # (b, i), (b, o)
        self.shape = weight.shape

    size = property(lambda self: self.shape[0] * self.shape[1])
    symmetric = property(lambda self: True)

    def after(self, rows: torch.Tensor) -> torch.Tensor:
        moved = torch.einsum("bi,koi->kbo", self.inputs, rows.view(-1, *self.shape))
        bent = self.chances * (moved - (self.chances * moved).sum(2, keepdim=True))
        return torch.einsum("kbo,bi->koi", bent, self.inputs).flatten(1) / len(self.inputs) + DECAY * rows

    def transpose(self) -> LinearOperator:
        return self

    def dense(self) -> torch.Tensor:
        return self.after(torch.eye(self.size, dtype=self.inputs.dtype))


def run(size: str, folder: Path) -> Result:
    """LiSSA against the exact inverse (Koh & Liang 2017, section 4.1)."""
    name, count, batch, steps, repeats = SIZES[size]
    problem = softmax(name, count, folder)
    inputs, weight = torch.as_tensor(problem.X), problem.model.weight.detach()
    H = uw.curvature.hessian(problem.study().objective)
    T, C = (uw.rows(problem.study().objective, data) for data in (problem.query, None))

    def draw(generator: torch.Generator) -> Drawn:
        return Drawn(inputs[torch.randint(count, (batch,), generator=generator)], weight)

    exact = uw.effect(T, uw.inverse(H), C).numpy()[0]
    largest = float(inputs.square().sum(1).max()) / 2 + DECAY  # no example bends more than ‖x‖²/2
    series = Neumann(H, draw, scale=largest / 2 if batch == 1 else None, steps=steps, repeats=repeats)
    stochastic = uw.effect(T, series, C).numpy()[0]
    result = Result(
        "Figure 2, middle: stochastic estimation (LiSSA)",
        "r = 10 series of t = 5,000 steps, one example a step, scale 25: visually identical to conjugate gradients.",
        f"{name}, n = {count:,}, {repeats} series of {steps:,} steps of {batch} example{'s' * (batch > 1)}",
    )
    result.add("Pearson with exact influence, all points", np.corrcoef(exact, stochastic)[0, 1], "identical to the eye", 0.97)  # fmt: skip
    result.add("slope", np.polyfit(stochastic, exact, 1)[0])
    try:
        uw.effect(T, Neumann(H, draw, scale=series.largest / 20, steps=steps), C)
        message = ""
    except uw.errors.ConfigError as error:
        message = str(error)
    result.add("a scale that is too small is an error (1) that names it", float("diverges" in message), "", 1)
    result.figure, axes = plt.subplots(figsize=(4.2, 3.8))
    axes.scatter(exact, stochastic, s=4, alpha=0.5, linewidths=0)
    axes.plot([exact.min(), exact.max()], [exact.min(), exact.max()], color="#888888", linewidth=1)
    axes.set(xlabel="exact I_up,loss", ylabel="LiSSA", title=f"{name}: {repeats} × {steps:,} steps of {batch}")
    result.why = (
        "The scale must exceed half the largest curvature of any minibatch, or the series runs away. The paper's 25 is no safe one "
        f"for these data: single examples bend up to {largest:.0f}; the scale here is half of that. We return the mean of the last half of the iterates, which is less noisy "
        f"than the last one. The message at a twentieth of the largest: “{message}”"
    )
    return result


if __name__ == "__main__":
    report("a3_lissa", run)
