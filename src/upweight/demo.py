"""The demonstration: real digits, planted label errors, predictions, and the refits that confirm them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from upweight.errors import MissingExtraError
from upweight.frameworks import from_sklearn
from upweight.show import Images

HELD_OUT = 360
QUERIES = 40
REFITS = 60
PLANTED = 0.05


@dataclass(frozen=True)
class Digits:
    """Digits with some labels deliberately wrong."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    planted: np.ndarray
    labels: np.ndarray
    """The right labels of the training images."""

    @property
    def points(self) -> int:
        """How many images are trained on."""
        return len(self.labels)

    def corrected(self, found: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The training set with some of its labels put right."""
        labels = self.train[1].copy()
        labels[found] = self.labels[found]
        return self.train[0], labels


@dataclass(frozen=True)
class Outcome:
    """What the demonstration found."""

    points: int
    planted: int
    found: int
    found_by_loss: int
    looked_at: int
    accuracy: float
    accuracy_corrected: float
    slope: float
    pearson: float
    refits: int
    seconds: float
    page: str

    def __str__(self) -> str:
        return (
            f"Wrong labels   {self.found} of {self.planted} planted are among the first {self.looked_at} suspects by self-influence "
            f"({self.found_by_loss} by loss alone; {self.looked_at * self.planted / self.points:.0f} expected by chance)\n"
            f"Refits         {self.refits} points really left out: refitted = {self.slope:.3f} × predicted, Pearson {self.pearson:.5f}\n"
            f"Accuracy       {self.accuracy:.1%} as fitted, {self.accuracy_corrected:.1%} once the wrong labels among the suspects are corrected and the model is fitted again\n"
            f"Report         {self.page} (open it in a browser: look, decide, export)\n"
            f"Time           {self.seconds:.0f} s"
        )


def planted_digits(seed: int = 0) -> Digits:
    """scikit-learn's 1,797 digits, split, with 5 % of the training labels moved to another class."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError(
            "the demonstration needs scikit-learn, which is not installed. Install it with: pip install 'upweight[sklearn]'"
        ) from error
    data: Any = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.data))
    inputs, labels = data.data[order] / 16.0, data.target[order].copy()
    train, test = slice(HELD_OUT, None), slice(0, HELD_OUT)
    wrong = rng.choice(len(labels) - HELD_OUT, round(PLANTED * (len(labels) - HELD_OUT)), replace=False)
    noisy = labels[train].copy()
    noisy[wrong] = (noisy[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return Digits((inputs[train], noisy), (inputs[test], labels[test]), np.sort(wrong), labels[train])


def run_demo(folder: str | Path = ".", seed: int = 0, progress: bool | None = True) -> Outcome:
    """Fit, find the planted labels, predict, refit for real, and write ``report.html``."""
    started = time.perf_counter()
    digits = planted_digits(seed)
    classifier = fit(digits.train)
    study = from_sklearn(classifier, *digits.train)
    planted = set(digits.planted.tolist())
    suspects = study.mislabeled(len(planted))
    found = sorted(planted & set(suspects["train"]))
    by_loss = study.mislabeled(digits.points).nsmallest(len(planted), "loss_rank")["train"]
    queries = (digits.test[0][:QUERIES], digits.test[1][:QUERIES])
    calibration = study.check(queries, refits=REFITS, seed=seed, progress=progress)
    page = Path(folder) / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    study.report(
        page,
        query=digits.test,
        display=Images(*(part[0].reshape(-1, 8, 8) for part in (digits.train, digits.test))),
        truth=digits.planted.tolist(),
        calibration=calibration,
        title="Real digits with planted label errors",
        commands=["upweight demo --out ."],
    )
    return Outcome(
        points=digits.points,
        planted=len(planted),
        found=len(found),
        found_by_loss=len(planted & set(by_loss)),
        looked_at=len(planted),
        accuracy=float(classifier.score(*digits.test)),
        accuracy_corrected=float(fit(digits.corrected(found)).score(*digits.test)),
        slope=calibration.slope,
        pearson=calibration.pearson,
        refits=len(calibration.train_ids),
        seconds=time.perf_counter() - started,
        page=str(page),
    )


def fit(train: tuple[np.ndarray, np.ndarray]) -> Any:
    """Softmax regression with scikit-learn, to a tight tolerance."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(*train)
