"""Scores held against the truth: refits at scale, the field's own scores, and how far chance lets one see."""

from upweight.evaluate.agreement import Agreement, loo_agreement
from upweight.evaluate.calibration import Calibration
from upweight.evaluate.datamodeling import LDS, lds
from upweight.evaluate.detection import Detection, mislabel_detection
from upweight.evaluate.estimates import Comparison, Estimate, compare
from upweight.evaluate.noise import NoiseFloor, noise_floor
from upweight.evaluate.refits import Refits, Refitted
from upweight.evaluate.removal import Brittleness, brittleness
from upweight.evaluate.retraining import Retraining
from upweight.evaluate.subsets import SubsetTruth, random_subsets, subset_truth
from upweight.evaluate.training import Training

__all__ = [
    "LDS",
    "Agreement",
    "Brittleness",
    "Calibration",
    "Comparison",
    "Detection",
    "Estimate",
    "NoiseFloor",
    "Refits",
    "Refitted",
    "Retraining",
    "SubsetTruth",
    "Training",
    "brittleness",
    "compare",
    "lds",
    "loo_agreement",
    "mislabel_detection",
    "noise_floor",
    "random_subsets",
    "subset_truth",
]
