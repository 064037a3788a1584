"""A new user with a CSV and no Python: the README's three commands and a keyboard find, correct and write back wrong labels."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from upweight.cli import app

WRONG = 24


def told(*arguments):
    found = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def log_loss(X, y, model):
    found = model.predict_proba(X)[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    return -np.log(found).mean()


def test_label_errors_in_a_table_are_found_reviewed_and_corrected(visit, tmp_path):
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    right = np.where(y == 1, "benign", "malignant")
    rng = np.random.default_rng(4)
    wrong = rng.choice(len(y), WRONG, replace=False)
    given = right.copy()
    given[wrong] = np.where(given[wrong] == "benign", "malignant", "benign")
    judge = rng.permutation(len(y))[:150]
    given[judge] = right[judge]
    train = np.setdiff1d(np.arange(len(y)), judge)
    X.assign(diagnosis=given).iloc[train].to_csv(tmp_path / "cells.csv", index=False)
    X.assign(diagnosis=right).iloc[judge].to_csv(tmp_path / "judge.csv", index=False)
    judge_by = X.iloc[judge], right[judge]
    X, right, wrong, given = X.iloc[train], right[train], np.flatnonzero((given != right)[train]), given[train]

    run = tmp_path / "runs" / "a"
    told("score", tmp_path / "cells.csv", "--target", "diagnosis", "--validation", tmp_path / "judge.csv", "--out", run)
    told("report", run, "--out", tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    page.select_option("#filter", "disagrees")
    page.keyboard.press("Tab")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    for _ in range(12):
        page.keyboard.press("a")
    with page.expect_download() as waiting:
        page.click("#export-csv")
    waiting.value.save_as(tmp_path / "decisions.csv")
    found = told("apply", tmp_path / "decisions.csv", "--run", run, "--out", tmp_path / "cleaned.csv")

    cleaned = pd.read_csv(tmp_path / "cleaned.csv")["diagnosis"].to_numpy()
    moved = np.flatnonzero(cleaned != given)
    assert len(moved) == found["relabelled"] == 12 and np.isin(moved, wrong).sum() >= 9
    what_if = found["what_if"]
    assert what_if["refitted"] < 0 and abs(what_if["predicted"] / what_if["refitted"] - 1) < 0.3
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-9, max_iter=5000))
    before, after = (log_loss(*judge_by, model.fit(X, labels)) for labels in (given, cleaned))
    assert what_if["refitted"] == pytest.approx(after - before, rel=1e-3)
