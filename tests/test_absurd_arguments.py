"""Absurd arguments: still a named error that says what was expected."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 2


def study(**settings):
    torch.manual_seed(0)
    model = nn.Linear(3, 2, dtype=torch.float64).eval()
    return uw.Study(model, (X, Y), loss="cross_entropy", **{"penalty": uw.L2(0.5), **settings})


ABSURD = {
    "weights in words": lambda: study(weights="a"),
    "an infinite penalty": lambda: uw.L2(float("inf")),
    "a penalty in words": lambda: uw.L2("strong"),
    "a list of measures": lambda: study().drop((X, Y), measure=["loss"]),
    "a NumPy matrix to invert": lambda: uw.inverse(np.eye(2)),
    "parameters by number": lambda: study(parameters=3),
    "an unknown device": lambda: study(device="moon"),
    "a seed in words": lambda: study(seed="lucky", curvature="ekfac"),
    "memory in words": lambda: study(memory="plenty"),
    "memory below one byte": lambda: study(memory="0GB"),
    "memory that is not a number": lambda: study(memory=float("nan")),
}


TRUTH = uw.evaluate.SubsetTruth.of(np.eye(4, dtype=bool) == 0, np.arange(12.0).reshape(4, 3))
SCORES = np.arange(12.0).reshape(3, 4)
ESTIMATE = uw.evaluate.loo_agreement(SCORES, SCORES + 1, draws=20).slope
NOBODY = partial(torch.optim.SGD, lr=0.1)
E = uw.evaluate
ODD = {
    "agreement of words": lambda: E.loo_agreement("a", SCORES),
    "agreement of None": lambda: E.loo_agreement(None, SCORES),
    "agreement of a vector": lambda: E.loo_agreement(SCORES[0], SCORES[0]),
    "agreement of ragged rows": lambda: E.loo_agreement([[1.0], [1.0, 2.0]], SCORES),
    "agreement of tensors with a graph": lambda: E.loo_agreement(torch.ones(2, 2, requires_grad=True), SCORES),
    "draws in words": lambda: E.loo_agreement(SCORES, SCORES, draws="many"),
    "half a draw": lambda: E.loo_agreement(SCORES, SCORES, draws=2.5),
    "a bootstrap seed in words": lambda: E.loo_agreement(SCORES, SCORES, seed="lucky"),
    "lds of words": lambda: E.lds("scores", TRUTH),
    "lds of None": lambda: E.lds(None, TRUTH),
    "lds of a cube": lambda: E.lds(SCORES[None], TRUTH),
    "lds against None": lambda: E.lds(SCORES, None),
    "lds against an array": lambda: E.lds(SCORES, SCORES),
    "a truth of words": lambda: E.SubsetTruth.of("kept", SCORES),
    "a truth of no outputs": lambda: E.SubsetTruth.of(np.eye(4), None),
    "detection by words": lambda: E.mislabel_detection(["a", "b"], [0]),
    "detection by None": lambda: E.mislabel_detection(None, [0]),
    "detection of None": lambda: E.mislabel_detection([1.0, 2.0], None),
    "detection of ragged rows": lambda: E.mislabel_detection([1.0, 2.0], [[0], [0, 1]]),
    "noise of words": lambda: E.noise_floor("effects", SCORES),
    "noise of None": lambda: E.noise_floor(SCORES, None),
    "power in words": lambda: E.noise_floor(SCORES, SCORES.T, power="much"),
    "no level": lambda: E.noise_floor(SCORES, SCORES.T, level=None),
    "comparing numbers": lambda: E.compare(0.3, 0.2),
    "comparing None": lambda: E.compare(ESTIMATE, None),
    "a margin in words": lambda: E.compare(ESTIMATE, ESTIMATE, "little"),
    "subsets of words": lambda: E.random_subsets("n", 3),
    "half a subset": lambda: E.random_subsets(10, 2.5),
    "alpha in words": lambda: E.random_subsets(10, 2, "half"),
    "subsets by a seed in words": lambda: E.random_subsets(10, 2, 0.5, "lucky"),
    "the truth of None": lambda: E.subset_truth(None, (X, Y)),
    "the truth from seeds in words": lambda: E.subset_truth(study(), (X, Y), seeds="some"),
    "the truth of masks in words": lambda: E.subset_truth(study(), (X, Y), masks="all"),
    "refits of None": lambda: E.Refits(None).drop((X, Y)),
    "refits from seeds in words": lambda: E.Refits(study(), seeds="some"),
    "refits from half a seed": lambda: E.Refits(study(), lambda weights, seed: {}, seeds=[0.5]),
    "brittleness of None": lambda: E.brittleness(None, (X, Y), SCORES),
    "brittleness by words": lambda: E.brittleness(study(), (X, Y), "scores"),
    "brittleness of half sizes": lambda: E.brittleness(study(), (X, Y), np.ones((12, 12)), sizes=[1.5]),
    "training without a model": lambda: E.Training(None, (X, Y), "cross_entropy", NOBODY, 1, 4),
    "training with a model in place of its builder": lambda: E.Training(
        nn.Linear(3, 2), (X, Y), "cross_entropy", NOBODY, 1, 4
    ),
    "training without an optimiser": lambda: E.Training(lambda: nn.Linear(3, 2), (X, Y), "cross_entropy", None, 1, 4),
    "retraining without training": lambda: E.Retraining(None),
    "retraining at weights in words": lambda: E.Retraining(lambda weights, seed: {})("weights"),
    "retraining from seeds in words": lambda: E.Retraining(lambda weights, seed: {}).all(np.ones((1, 12)), "some"),
    "a check of None": lambda: study().check(None),
    "half a refit": lambda: study().check((X, Y), refits=2.5),
    "refits in words": lambda: study().check((X, Y), refits="ten"),
    "true refits": lambda: study().check((X, Y), refits=True),
    "a check from seeds in words": lambda: study().check((X, Y), seeds="some"),
    "an unknown setting": lambda: study(dampening=0.1),
}
"""Arguments of the room that scores are judged in: whichever error fits, as long as it is ours and says what was expected."""


def told(function: str) -> list[str]:
    """What a function here prints in a process of its own: in this one shape annotations are checked, and would speak first."""
    script = f"import test_absurd_arguments as module; module.{function}()"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    return found.stdout.splitlines()


def test_what_cannot_be_meant_is_refused_by_name():
    assert dict(line.split(": ") for line in told("tell")) == dict.fromkeys(ABSURD, "ConfigError")


def tell():
    """What each of them is refused with, provided that the message says what was expected."""
    for name, ask in ABSURD.items():
        try:
            ask()
        except Exception as error:
            print(f"{name}: {type(error).__name__ if 'Expected' in str(error) else error}")


def test_odd_arguments_of_the_evaluations_are_refused_by_an_error_of_ours():
    assert told("tell_odd") == []


def tell_odd():
    """Those that are answered, or refused by somebody else, or without a word about what was expected."""
    for name, ask in ODD.items():
        try:
            print(f"{name}: answered {ask()!r}"[:200])
        except uw.errors.UpweightError as error:
            if "Expected" not in str(error):
                print(f"{name}: {error}")
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}"[:300])


@pytest.mark.parametrize(
    ("given", "expected"), [("4GB", 4e9), ("512 MiB", 2**29), (4e9, 4e9), (" 1.5e3 ", 1500), ("2tb", 2e12)]
)
def test_memory_is_read_with_its_unit(given, expected):
    assert study(memory=given).fitted.settings.budget == int(expected)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.look, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)

    def forward(self, tokens):
        return self.head(self.look(tokens))


def test_a_query_without_any_label_measures_nothing_and_is_refused():
    tokens, targets = torch.arange(42).view(6, 7) % 5, torch.arange(42).view(6, 7) % 5
    study = uw.Study(Tagger().eval(), (tokens, targets), loss="token_cross_entropy", curvature="ekfac")
    asked = targets[:3].clone()
    asked[1] = -100
    with pytest.raises(uw.errors.LabelError, match=r"query 1 has no label.*\(1 of 3.*Expected at least one"):
        study.drop((tokens[:3], asked))
    assert study.drop((tokens[:3], asked), measure="prediction", which=[0]).values.shape[1] == 1
