"""A table to score and a run of it, for the tests of the command line."""

import json

import numpy as np
import pandas as pd
import pytest

from commands import upweight


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of 160 rows, eight of them with the wrong label: numbers, a gap, a category, an id, a constant."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((160, 3))
    y = np.where(x @ [2.0, -1.0, 0.5] + 0.5 * rng.standard_normal(160) > 0, "yes", "no")
    wrong = rng.choice(160, 8, replace=False)
    y[wrong] = np.where(y[wrong] == "yes", "no", "yes")
    frame = pd.DataFrame(x.round(4), columns=["a", "b", "c"])
    frame["where"], frame["name"], frame["same"], frame["answer"] = (
        rng.choice(["north", "south"], 160),
        [f"row{i:03d}" for i in range(160)],
        1,
        y,
    )
    frame.loc[3, "a"] = np.nan
    path = tmp_path_factory.mktemp("table") / "people.csv"
    frame.to_csv(path, index=False)
    return path, frame, wrong


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    found = upweight("score", table[0], "--target", "answer", "--out", folder, "--refits", 6, "--json")
    return folder, json.loads(found.stdout), found.stderr
