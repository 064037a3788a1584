"""Studies and pages shared by the tests of the report."""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

import upweight as uw
from cases import classification, regression
from upweight.report.gathered import Gathered, Wanted
from upweight.report.page import render
from upweight.report.payload import payload

NAMES = np.array(["oak", "elm", "ash"])


@cache
def trees():
    """Three classes of 130 points, 20 queries: data, names, study."""
    data = classification(n=130, m=20, classes=3, p=4)
    y = NAMES[data.y]
    wrong = np.arange(0, 130, 26)
    y[wrong] = NAMES[(data.y[wrong] + 1) % 3]
    fitted = LogisticRegression(tol=1e-10, max_iter=1000).fit(data.X, y)
    ids = [f"tree {i}" for i in range(130)]
    return data, y, uw.from_sklearn(fitted, data.X, y, ids=ids)


def trees_query():
    data, _, _ = trees()
    return data.Xt, NAMES[data.yt]


@cache
def numbers():
    """A regression of 60 points and 10 queries."""
    data = regression(n=60, m=10)
    return data, uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)


def written(path: Path, study, **wanted) -> Path:
    """A page on disk."""
    path.write_text(render(payload(Gathered(study.fitted, Wanted(**wanted)))), "utf-8")
    return path


def data_of(page: str) -> dict:
    """The data of a page, read as its scripts read them."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def unpacked(column: dict) -> np.ndarray:
    ((kind, text),) = column.items()
    return np.frombuffer(base64.b64decode(text), f"<{kind}")
