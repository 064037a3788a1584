"""How far a report can be trusted, as three lights and words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from upweight.evaluate.calibration import LIMITS, WORDS, Calibration
from upweight.gradients.stationarity import LIMIT
from upweight.questions.trust import FAR, FLAT, HIGH_LEVERAGE, MUCH_DAMPING, Trust
from upweight.solve import Verdict
from upweight.solve.direct import ILL_CONDITIONED

GOOD, CARE, BAD = "good", "care", "bad"
HEADLINES = {
    GOOD: "You can believe these numbers",
    CARE: "Read these numbers with care",
    BAD: "Do not rely on these numbers",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was measured: its light, its name, and what was found in a sentence."""

    light: str
    name: str
    words: str


@dataclass(frozen=True)
class Judgement:
    """All findings, the worst of which is the whole's."""

    findings: list[Finding]

    @property
    def light(self) -> str:
        """'good', 'care' or 'bad'."""
        lights = {finding.light for finding in self.findings}
        return BAD if BAD in lights else CARE if CARE in lights else GOOD

    @property
    def headline(self) -> str:
        """The judgement in one line."""
        return HEADLINES[self.light]


def judge(trust: Trust, calibration: Calibration | None) -> Judgement:
    """What the study measured about itself, with what really refitting said."""
    found = [refits(calibration), minimum(trust), curvature(trust), solver(trust), *leverage(trust)]
    if trust.damping_share > MUCH_DAMPING:
        small = (
            ""
            if trust.mean_leverage > HIGH_LEVERAGE
            else ": effects are smaller than a refit's where the curvature is low"
        )
        share = f"Damping is {trust.damping_share:.2g} of the mean curvature{small}. Rankings usually hold; sizes need a refit."
        found.append(Finding(CARE, "Damping", share))
    return Judgement(found)


def refits(calibration: Calibration | None) -> Finding:
    """The only test that settles it."""
    name = "Real refits"
    if calibration is None:
        return Finding(
            CARE,
            name,
            "None were made for this report, so nothing here was tested against the truth. Ask for refits=30 with a query, and for a large network give train= as well.",
        )
    if calibration.concerns:
        return Finding(BAD, name, _sentence("; ".join(calibration.concerns)))
    k = len(calibration.train_ids)
    if calibration.truth in LIMITS:
        words = f"{k} points: {WORDS[calibration.truth][0]} were {calibration.slope:.3f} times what was predicted (correlation {calibration.pearson:.4f}){LIMITS[calibration.truth]}."
        return Finding(CARE, name, words)
    return Finding(
        GOOD,
        name,
        f"{k} training points were really left out, and the model refitted each time: what happened was {calibration.slope:.3f} times what was predicted (correlation {calibration.pearson:.4f}).",
    )


def minimum(trust: Trust) -> Finding:
    """Influence is about a minimum."""
    reached = trust.stationarity.reached and not trust.pending_shift > FAR
    words = [
        "The model is at a minimum of what it minimised."
        if reached
        else "The model is not at a minimum of what it minimised: train further, or check loss and penalty against the training run.",
        f"The gradient left is {trust.stationarity.ratio:.1g} of a typical point's (limit {LIMIT}).",
    ]
    if math.isfinite(trust.pending_shift):
        words.append(f"The step still to be taken would move the outputs by {trust.pending_shift:.1g} of their size.")
    return Finding(GOOD if reached else CARE, "Training", " ".join(words))


def curvature(trust: Trust) -> Finding:
    """Positive, and not flat."""
    if math.isfinite(trust.hessian_floor):
        return Finding(
            CARE,
            "Curvature",
            f"The Hessian's lowest eigenvalue is {trust.hessian_floor:.3g}: these parameters are no strict minimum, and the damped Gauss-Newton matrix answers.",
        )
    if not math.isfinite(trust.lowest_curvature):
        return Finding(
            GOOD,
            "Curvature",
            f"Approximated in blocks, mean eigenvalue {trust.mean_curvature:.3g}; its lowest was not measured.",
        )
    flat = trust.lowest_curvature < FLAT * trust.mean_curvature and not trust.convex
    words = f"Lowest eigenvalue {trust.lowest_curvature:.3g}, mean {trust.mean_curvature:.3g}."
    if trust.lowest_curvature <= 0:
        return Finding(
            BAD, "Curvature", words + " It must be positive: the model is not at a minimum of what it minimised."
        )
    return Finding(CARE if flat else GOOD, "Curvature", words + " Along flat directions refits go farther." * flat)


def solver(trust: Trust) -> Finding:
    """What came back from the solve."""
    if not isinstance(trust.solver, Verdict):
        return Finding(BAD, "Solver", _sentence(str(trust.solver)))
    ill = (trust.solver.condition or 0.0) > ILL_CONDITIONED
    light = BAD if not trust.solver.converged else CARE if ill else GOOD
    words = " Some combination of parameters is hardly determined; a small penalty would settle it." * ill
    return Finding(light, "Solver", _sentence(str(trust.solver)) + words)


def leverage(trust: Trust) -> list[Finding]:
    """Points that own their fit."""
    if not math.isfinite(trust.highest_leverage):
        return []
    high = trust.highest_leverage > HIGH_LEVERAGE
    if trust.highest_leverage > 1.0:
        overstated = f"Mean {trust.mean_leverage:.2g}, highest {trust.highest_leverage:.2g} (point {trust.highest_point}): above 1, so this curvature overstates what single points own. Confirm the largest effects by refits."
        return [Finding(CARE, "Leverage", overstated)]
    words = f"A point owns {trust.mean_leverage:.1%} of its own fit on average, and at most {trust.highest_leverage:.0%} (point {trust.highest_point})."
    return [Finding(CARE if high else GOOD, "Leverage", words + " Confirm the drop of that point by a refit." * high)]


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."
