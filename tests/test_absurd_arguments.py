"""Absurd arguments: still a named error that says what was expected."""

import subprocess
import sys
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


def test_what_cannot_be_meant_is_refused_by_name():
    """In a process of its own: here shape annotations are checked while tests run, and would speak first."""
    script = "import test_absurd_arguments as module; module.tell()"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert dict(line.split(": ") for line in found.stdout.splitlines()) == dict.fromkeys(ABSURD, "ConfigError")


def tell():
    """What each of them is refused with, provided that the message says what was expected."""
    for name, ask in ABSURD.items():
        try:
            ask()
        except Exception as error:
            print(f"{name}: {type(error).__name__ if 'Expected' in str(error) else error}")


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
